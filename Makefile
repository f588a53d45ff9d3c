PREFIX ?= /usr/local
VERSION := $(shell sed -n "s/^ *version: '\(.*\)',$$/\1/p" meson.build)
BUILD := build
ASAN := build-asan
FUZZ := build-fuzz
FUZZ_SECONDS ?= 60
.PHONY: all demo check check-gpu check-kernels bench docs fuzz install install-criu install-cedana clean

all:
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD)
	ninja -C $(BUILD)

demo:
	scripts/install-deps.sh
	@$(MAKE) all
	scripts/demo.sh

check:
	scripts/install-deps.sh check
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) -Dwerror=true
	meson configure $(BUILD) -Dwerror=true
	ninja -C $(BUILD)
	@test -f $(ASAN)/build.ninja || CC=clang meson setup $(ASAN) -Db_sanitize=address,undefined -Db_lundef=false -Dwerror=true
	ninja -C $(ASAN) unit-tests fuzz-tests src/cli/fermata src/cli/fermata-daemon
	tests/check.py

check-gpu: all
	tests/gpu/real.py

# Under other kernels, in qemu: half an hour for each. KERNELS: versions, packages or folders.
KERNELS ?= 6.1
check-kernels: all
	scripts/install-deps.sh kernels
	tests/kernels/run.py --exchange $(KERNELS)

# About six minutes; each takes --help, and without limits as long as it wants.
bench: all
	bench/bench.py --seconds 90
	bench/packed.py --mib 512 --rounds 1
	bench/memory.py --seconds 90
	bench/picture.py --seconds 90

docs: all
	scripts/docs.py

fuzz:
	@test -f $(FUZZ)/build.ninja || CC=clang meson setup $(FUZZ) -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
	ninja -C $(FUZZ) fuzz-tests
	tests/fuzz/fuzz.py $(FUZZ) $(FUZZ_SECONDS)

install: all
	install -D -m 755 $(BUILD)/src/cli/fermata $(DESTDIR)$(PREFIX)/bin/fermata
	install -D -m 755 $(BUILD)/src/cli/fermata-daemon $(DESTDIR)$(PREFIX)/libexec/fermata/fermata-daemon
	install -D -m 644 $(BUILD)/src/cli/fermata.1 $(DESTDIR)$(PREFIX)/share/man/man1/fermata.1
	$(BUILD)/src/cli/fermata manual --pages $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 $(BUILD)/src/cli/fermata.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fermata
	install -D -m 644 $(BUILD)/src/cli/cedana.1 $(DESTDIR)$(PREFIX)/share/man/man1/cedana.1
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BUILD)/src/cli/fermata completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fermata
	$(BUILD)/src/cli/fermata completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/fermata.fish
	for unit in fermata.service fermata.socket; do mkdir -p $(DESTDIR)$(PREFIX)/lib/systemd/system && \
	  sed 's|/usr/local|$(PREFIX)|' dist/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done
	install -D -m 644 include/fermata/fermata.h $(DESTDIR)$(PREFIX)/include/fermata/fermata.h
	install -D -m 644 $(BUILD)/src/lib/libfermata.a $(DESTDIR)$(PREFIX)/lib/libfermata.a
	install -D -m 755 $(BUILD)/src/lib/libfermata.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libfermata.so.$(VERSION)
	ln -sfn libfermata.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libfermata.so.0
	ln -sfn libfermata.so.0 $(DESTDIR)$(PREFIX)/lib/libfermata.so
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' src/lib/fermata.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/fermata.pc

install-cedana: install
	ln -sfn fermata $(DESTDIR)$(PREFIX)/bin/cedana

install-criu: install
	ln -sfn fermata $(DESTDIR)$(PREFIX)/bin/criu
	install -D -m 644 $(BUILD)/src/cli/criu.1 $(DESTDIR)$(PREFIX)/share/man/man1/criu.1
	ln -sfn fermata $(DESTDIR)$(PREFIX)/share/bash-completion/completions/criu

clean:
	rm -rf $(BUILD) $(ASAN) $(FUZZ)
