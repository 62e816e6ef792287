# What the scripts with container engines share, besides lib.bash: a machine of their own, engines in it, and images.
# shellcheck shell=bash

# Debian's engines, and not others that lie in /usr/local.
PATH=/usr/sbin:/usr/bin:/sbin:/bin

# new_machine NETWORK makes what stands in for a machine: a user namespace with root and 65535 more ids, mounts and processes
# of its own, the network of the host or none, and binfmt_misc mounted where a machine has it. What runs in it sees no
# handler of the host's, and the host sees none of its (K65, K66); so nothing here needs the host's own instance, and all
# of it ends with process 1.
new_machine() {
    local namespaces=(--user --mount --pid)
    [[ $1 != none ]] || namespaces+=(--net)
    # Its first process tells its number as the host's /proc has it, and waits for its ids.
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

# Process 1 takes all others along; then nothing writes below $work any more.
end_machine() {
    kill -KILL "$machine"
    { wait; } 2>/dev/null
}

# machine COMMAND… runs it as root of the machine, from its root directory.
machine() { nsenter --target "$machine" --user --mount --pid --net --wd=/ -- "$@"; }

# empty FOLDER… gives the machine empty folders there, whatever this host has.
empty() {
    local folder
    for folder; do machine mount -t tmpfs tmpfs "$folder"; done
}

# layer FOLDER gives the machine a layer of its own over a folder of this host.
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
    die "$name does not begin"
}

# start_docker starts Docker Engine in the machine, with all it writes in a folder of ours and no network.
start_docker() {
    need dockerd docker.io
    need docker docker-cli
    need runc runc
    # Who is told to be in a container loads no AppArmor profile, which the root of a user namespace may not.
    machine env container=unshare dockerd --data-root "$work/docker" --exec-root /run/docker --pidfile /run/docker.pid \
        --storage-driver vfs --iptables=false --bridge=none -H "unix://$work/docker.sock" >"$work/docker.log" 2>&1 &
    wait_for "Docker Engine" docker info
}

# The client of that engine, and podman as root of the machine. buildah shares podman's images.
docker() { command docker -H "unix://$work/docker.sock" "$@"; }
storage=(--root "$work/podman" --runroot /run/podman --storage-driver vfs)
podman() { machine env container=unshare podman "${storage[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }

# image FILE NAME PLATFORM FOLDER writes an archive that `docker load` and `podman load` take: one layer, what is in the
# folder. NAME has to be of localhost for podman.
image() {
    local file=$1 name=$2 folder=$work/image layer os arch variant
    IFS=/ read -r os arch variant <<<"$3"
    mkdir -p "$folder"
    tar -C "$4" --sort=name --owner=0 --group=0 --numeric-owner -cf "$folder/layer.tar" .
    layer=$(sha256sum <"$folder/layer.tar")
    printf '{"os":"%s","architecture":"%s",%s"config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$os" "$arch" "${variant:+\"variant\":\"$variant\",}" "${layer%% *}" >"$folder/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$folder/manifest.json"
    tar -C "$folder" -cf "$file" config.json manifest.json layer.tar
    rm -r "$folder"
}

# No network, and no limits above those there are or in a cgroup: a machine of continuous integration is often a container.
limits=(--network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

# run_in ENGINE PLATFORM IMAGE COMMAND… runs a container, and build_in ENGINE PLATFORM NAME FOLDER builds an image.
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
