# Functions for the scripts with container engines, in addition to lib.bash: a machine, engines in it, and images.
# shellcheck shell=bash

# Debian's engines, and no others in /usr/local.
PATH=/usr/sbin:/usr/bin:/sbin:/bin

# new_machine NETWORK creates a namespace that represents a machine. It has a user namespace with 65536 ids, its own
# mounts and processes, the network of the host or none, and a mounted binfmt_misc. Programs in it do not see the host's
# handlers, and the host does not see theirs (K65, K66). So the scripts do not need the host's own instance, and
# everything ends with process 1.
new_machine() {
    local namespaces=(--user --mount --pid)
    [[ $1 != none ]] || namespaces+=(--net)
    # The first process writes its id, as in the host's /proc, and waits for its user ids.
    # shellcheck disable=SC2016
    unshare "${namespaces[@]}" --fork --propagation private sh -euc '
        read -r pid rest </proc/self/stat
        echo "$pid" >"$1/machine.pid"
        until [ "$(id -u)" = 0 ]; do sleep 0.05; done
        mount -t proc proc /proc
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        mount -t tmpfs tmpfs /run
        : >"$1/machine.ready"
        exec sleep infinity' sh "$work" 2>"$work/machine.log" &
    wait_for "the machine's first process" test -s "$work/machine.pid"
    machine=$(<"$work/machine.pid")
    cleanups+=(end_machine)
    echo '0 0 65536' >"/proc/$machine/uid_map"
    echo '0 0 65536' >"/proc/$machine/gid_map"
    wait_for "the machine" test -e "$work/machine.ready"
}

# All other processes end with process 1. Then nothing writes to $work any more.
end_machine() {
    kill -KILL "$machine"
    { wait; } 2>/dev/null
}

# machine COMMAND… runs a command as root of the machine, from its root directory.
machine() { nsenter --target "$machine" --user --mount --pid --net --wd=/ -- "$@"; }

# empty DIR… covers directories of the machine with empty ones.
empty() {
    local directory
    for directory; do machine mount -t tmpfs tmpfs "$directory"; done
}

# layer DIR gives the machine a writable layer over a directory of this host.
layer() {
    machine mkdir -p "/run/layer$1/upper" "/run/layer$1/work"
    machine mount -t overlay -o "lowerdir=$1,upperdir=/run/layer$1/upper,workdir=/run/layer$1/work" overlay "$1"
}

# wait_for NAME COMMAND… waits until the command succeeds.
wait_for() {
    local name=$1
    shift
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 20 "$work"/*.log >&2
    die "$name does not start"
}

# start_docker starts Docker Engine in the machine, without network. It writes only to a directory of this test.
start_docker() {
    need dockerd docker.io
    need docker docker-cli
    need runc runc
    # With this variable dockerd loads no AppArmor profile, which root of a user namespace may not do.
    machine env container=unshare dockerd --data-root "$work/docker" --exec-root /run/docker --pidfile /run/docker.pid \
        --storage-driver vfs --iptables=false --bridge=none -H "unix://$work/docker.sock" >"$work/docker.log" 2>&1 &
    wait_for "Docker Engine" docker info
}

# docker is the client of that engine, and podman runs as root of the machine. buildah shares podman's images.
docker() { command docker -H "unix://$work/docker.sock" "$@"; }
storage=(--root "$work/podman" --runroot /run/podman --storage-driver vfs)
podman() { machine env container=unshare podman "${storage[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }

# image FILE NAME PLATFORM DIR writes an archive for `docker load` and `podman load`, with the directory as its only
# layer. For podman, NAME has to begin with localhost.
image() {
    local file=$1 name=$2 directory=$work/image layer os arch variant
    IFS=/ read -r os arch variant <<<"$3"
    mkdir -p "$directory"
    tar -C "$4" --sort=name --owner=0 --group=0 --numeric-owner -cf "$directory/layer.tar" .
    layer=$(sha256sum <"$directory/layer.tar")
    printf '{"os":"%s","architecture":"%s",%s"config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$os" "$arch" "${variant:+\"variant\":\"$variant\",}" "${layer%% *}" >"$directory/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$directory/manifest.json"
    tar -C "$directory" -cf "$file" config.json manifest.json layer.tar
    rm -r "$directory"
}

# No network, and no limits above the present ones or in a cgroup: a machine of continuous integration is often a
# container.
limits=(--network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

# run_in ENGINE PLATFORM IMAGE COMMAND… runs a container, and build_in ENGINE PLATFORM NAME DIR builds an image.
run_in() {
    case $1 in
        docker | buildkit) docker run --rm "${limits[@]}" --platform "$2" "${@:3}" ;;
        podman) podman run --rm "${limits[@]}" --pids-limit -1 --platform "$2" "${@:3}" ;;
    esac
}
build_in() {
    case $1 in
        docker) DOCKER_BUILDKIT=0 docker build --no-cache --network none --platform "$2" --tag "$3" "$4" ;;
        buildkit) DOCKER_BUILDKIT=1 docker build --progress plain --no-cache --network none --platform "$2" --tag "$3" "$4" ;;
        podman) podman build --no-cache --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
            --platform "$2" --tag "$3" "$4" ;;
    esac
}
