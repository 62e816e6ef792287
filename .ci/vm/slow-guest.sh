# Checks qus in a guest of `.ci/vm/minimal`: however slow the machine is, qus refuses no good emulator.
#
#     .ci/vm/minimal --suite SUITE --cpus N --throttle PERCENT --interpreters DIR --programs DIR QUS .ci/vm/slow-guest.sh [ROUNDS]
#
# The directory of interpreters has qemu-ARCH-static for each architecture, and the one of programs has static busyboxes
# named ARCH. ROUNDS is the number of times that everything is registered, verified and removed; 20 by default.
#
# A boot takes 3 to 10 s, and a round about 1 s. With `--throttle 2` they take fifty times as long, so use 1 or 2 rounds
# and `--timeout 3000`. busybox's shell runs this script.
#
# shellcheck shell=dash
set -u
rounds=${1:-20}
instance=/proc/sys/fs/binfmt_misc
export QUS_INTERPRETER_DIR=/interpreters
# Each name is one word without blanks or patterns. Architectures that the host runs natively are left out.
# shellcheck disable=SC2046
set -- $(cd /interpreters && printf '%s\n' qemu-*-static | sed -E 's/^qemu-//; s/-static$//; /^(x86_64|i386)$/d')
arches=$*

fail() {
    echo "slow-guest: $1"
    if [ -e /run/output ]; then cat /run/output; fi
    exit 1
}

# expect STATUS PATTERN COMMAND…: expects this exit status of the command, and no match of the pattern in its output.
expect() {
    want=$1 unwanted=$2 got=0
    shift 2
    "$@" >/run/output 2>&1 || got=$?
    if [ "$got" -ne "$want" ]; then fail "status $got of: $*"; fi
    if grep -qE "$unwanted" /run/output; then fail "/$unwanted/ is in the output of: $*"; fi
}

# Prints the number of handlers.
registered() { find "$instance" -name 'qemu-*' | wc -l; }

programs_run() {
    for program in /programs/*; do
        arch=${program##*/}
        # busybox takes its applet from the first argument only under a name like its own.
        ln -sf "$program" "/run/busybox-$arch"
        "/run/busybox-$arch" true || fail "$program does not run"
    done
}

# expect_word PATTERN COMMAND…: expects success of the command, and a match of the pattern in its output.
expect_word() {
    wanted=$1
    shift
    "$@" >/run/output 2>&1 || fail "status $? of: $*"
    grep -qE "$wanted" /run/output || fail "no /$wanted/ in the output of: $*"
}

# The scope is that of the instance (K64): before Linux 6.7 it is the host, from every user namespace.
scope_is_true() {
    release=$(uname -r)
    major=${release%%.*} minor=${release#*.}
    minor=${minor%%.*}
    arch=${arches%% *}
    # This handler stays: Linux 5.10 refuses to register the first handler from a user namespace (EBUSY).
    expect_word 'on this host, until the next reboot' qus register --no-verify "${arches##* }"
    if [ $((major * 1000 + minor)) -lt 6007 ]; then
        outer='on this host, until the next reboot'
        own=$outer
    else
        outer='in an outer user namespace, usually the host.s, even after this user namespace ends'
        own='in user namespace [0-9]+ only, until that namespace ends'
    fi
    expect_word "$outer" unshare -U -r qus register --no-verify "$arch"
    if [ "$(registered)" -ne 2 ]; then fail "the handler did not stay"; fi
    qus reset "$arch" >/dev/null 2>&1
    # The shell keeps running, so the namespaces stay. It expands its own variables.
    # shellcheck disable=SC2016
    expect_word "$own" unshare -U -r -m sh -c 'qus register --no-verify "$1" || exit; :' sh "$arch"
    if [ "$own" = "$outer" ] && [ "$(registered)" -ne 2 ]; then fail "the handler is not on the host"; fi
    if [ "$own" != "$outer" ] && [ "$(registered)" -ne 1 ]; then fail "the handler is on the host"; fi
    qus reset >/dev/null 2>&1
    # The host's root in a container's mount namespace sees the container's instance.
    if [ "$own" != "$outer" ]; then
        # shellcheck disable=SC2016
        unshare -U -r -m sh -c 'mount -t binfmt_misc none "$1"; : >/run/mounted; exec sleep 1000' sh "$instance" &
        until [ -e /run/mounted ]; do sleep 0.1; done
        expect_word 'another user namespace, not the host' nsenter -t $! -m qus list
        kill $!
        expect_word 'handlers here are those of the host' unshare -m qus doctor -v --no-verify
    fi
    echo "the scope of each instance is reported correctly"
}

false_words='refused|broken|shadowed|stale|replaced|in front|in time'

echo "Linux $(uname -r), $(nproc) CPU"
# The first command of a user: nothing is in the page cache.
expect 0 "$false_words" qus register "$@"
# Some architectures have more than one handler.
count=$(registered)
if [ "$count" -lt $# ]; then fail "$count handlers for $# architectures"; fi
echo "cold: $# registered"
programs_run
expect 0 "$false_words" qus verify
expect 0 "$false_words" qus list --probe
for program in /programs/*; do expect 0 "$false_words" qus which "$program"; done
expect 0 "$false_words|^problem" qus doctor

round=1
while [ "$round" -le "$rounds" ]; do
    expect 0 "$false_words" qus reset
    if [ "$(registered)" -ne 0 ]; then fail "handlers are left"; fi
    expect 0 "$false_words" qus register all
    if [ "$(registered)" -ne "$count" ]; then fail "only $(registered) of $count handlers are registered"; fi
    expect 0 "$false_words" qus verify
    expect 0 "$false_words|registered " qus register all
    round=$((round + 1))
done
echo "$rounds rounds: no false refusal"
expect 0 "$false_words" qus reset
scope_is_true
