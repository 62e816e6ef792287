# Functions for the scripts in this directory. Each script takes the path of a qus binary, and runs as root of a Debian
# machine, so that it can create an ordinary user. Nothing is registered in the machine's own instance.
# shellcheck shell=bash
set -euo pipefail

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
ok() { printf 'ok %s\n' "$*"; }

# is NAME EXPECTED ACTUAL
is() {
    [[ "$3" == "$2" ]] || die "$1: expected '$2', got '$3'"
    ok "$1"
}

# has NAME PART TEXT
has() {
    [[ "$3" == *"$2"* ]] || die "$1: no '$2' in: $3"
    ok "$1"
}

[[ $# -ge 1 && -x "$1" ]] || die "usage: ${0##*/} QUS"
[[ $EUID -eq 0 ]] || die "run it as root"
work=$(mktemp -d)
chmod 755 "$work"
install -m 755 "$1" "$work/qus"
qus=$work/qus
user=
cleanups=()
finish() {
    local status=$? index
    set +e
    for ((index = ${#cleanups[@]} - 1; index >= 0; index--)); do
        eval "${cleanups[index]}"
    done
    # Some files belong to subordinate ids of the user.
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap finish EXIT

# need PROGRAM PACKAGE… installs the packages if the program is missing.
need() {
    local program=$1
    shift
    # `type -P` finds files only, and no function of that name.
    type -P "$program" >/dev/null && return
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# new_user creates an ordinary user $user with subordinate ids, a home and a runtime directory. All are removed in the
# end.
new_user() {
    need newuidmap uidmap
    user=qus-e2e-$$
    home=$work/home
    touch /etc/subuid /etc/subgid
    useradd --create-home --home-dir "$home" --shell /bin/sh "$user"
    cleanups+=('userdel --force "$user" 2>/dev/null')
    grep -q "^$user:" /etc/subuid || usermod --add-subuids 200000-265535 --add-subgids 200000-265535 "$user"
    install -d -o "$user" -g "$user" -m 700 "$work/runtime"
}

# as_user COMMAND… runs a command as that user, in its home.
as_user() {
    (cd "$home" && setpriv --reuid "$user" --regid "$user" --init-groups env -i \
        HOME="$home" XDG_RUNTIME_DIR="$work/runtime" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin TERM=dumb "$@")
}

# archive prints the Debian archive of this machine, and suite prints its suite.
archive() { apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1; }
suite() { (. /etc/os-release && printf '%s\n' "$VERSION_CODENAME"); }

# Directory of downloads that several scripts need. .ci/run sets it for all of them.
cache=${QUS_E2E_CACHE:-$work/cache}

# apt_of ARCH SUITE COMMAND… runs apt-get for another architecture, with its own lists and packages.
apt_of() {
    local arch=$1 suite=$2 state=$cache/apt-$1-$2 options
    shift 2
    mkdir -p "$state"/{lists,cache}/partial
    printf 'deb [arch=%s signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$arch" "$(archive)" "$suite" >"$state/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state/cache" -o "APT::Architecture=$arch"
        -o "APT::Architectures=$arch" -o APT::Sandbox::User=root)
    [[ -e $state/updated ]] || apt-get "${options[@]}" update >&2
    touch "$state/updated"
    (cd "$state" && apt-get "${options[@]}" "$@" >&2)
}

# busybox_of ARCH prints the path of a static busybox, for an architecture by Debian's name. It comes from the first
# suite that has one, because some architectures are newer than the machine's suite.
busybox_of() {
    local file=$cache/busybox-$1 suite
    for suite in "$(suite)" trixie sid; do
        [[ ! -e $file ]] || break
        apt_of "$1" "$suite" download busybox-static || continue
        dpkg-deb --fsys-tarfile "$cache/apt-$1-$suite"/busybox-static_*.deb | tar -x -O --wildcards '*/busybox' >"$file.new"
        chmod 755 "$file.new"
        mv "$file.new" "$file"
    done
    [[ -e $file ]] || die "no suite has busybox-static for $1"
    printf '%s\n' "$file"
}

# busybox_root DIR ARCH creates a root directory with only a static busybox of that architecture.
busybox_root() {
    mkdir -p "$1"/{bin,etc,proc,sys,dev,tmp}
    cp "$(busybox_of "$2")" "$1/bin/busybox"
    ln -s busybox "$1/bin/sh"
    ln -s busybox "$1/bin/uname"
}

# host_state prints the machine's own handlers and its mounts, for comparison.
host_state() {
    find /proc/sys/fs/binfmt_misc -type f ! -name register -exec head -n -0 {} + 2>/dev/null || true
    cut -d ' ' -f 3- /proc/self/mountinfo | grep -v "$work" || true
}
