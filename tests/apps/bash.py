"""A bash loop that talks to a coprocess and starts a process for each step."""
from app import CountingApp

SCRIPT = r"""
exec 3<>log
coproc ADDER { n=0; while read -r line; do n=$((n + 1)); echo $((line + n)); done; }
for ((i = 0; ; i++)); do
    echo "$i" >&"${ADDER[1]}"
    read -r sum <&"${ADDER[0]}"
    (( sum == 2 * i + 1 )) || { echo "step $i: $sum" >&2; exit 1; }
    printf '%08d\n' "$i" >&3
    sleep 0.005
done
"""


class Test(CountingApp):
    programs = ("bash",)

    def start(self):
        self.spawn(["bash", self.write("loop.sh", SCRIPT)])
