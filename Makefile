PREFIX ?= /usr/local
BUILD := build
ASAN := build-asan
FUZZ := build-fuzz
FUZZ_SECONDS ?= 60
.PHONY: all demo check bench docs fuzz install install-criu clean

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
	ninja -C $(ASAN) unit-tests fuzz-tests src/cli/fermata
	tests/check.py

bench: all
	bench/bench.py

docs: all
	scripts/docs.py

fuzz:
	@test -f $(FUZZ)/build.ninja || CC=clang meson setup $(FUZZ) -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
	ninja -C $(FUZZ) fuzz-tests
	tests/fuzz/fuzz.py $(FUZZ) $(FUZZ_SECONDS)

install: all
	install -D -m 755 $(BUILD)/src/cli/fermata $(DESTDIR)$(PREFIX)/bin/fermata

install-criu: install
	ln -sfn fermata $(DESTDIR)$(PREFIX)/bin/criu

clean:
	rm -rf $(BUILD) $(ASAN) $(FUZZ)
