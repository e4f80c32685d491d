#!/bin/sh
# The demo: a sandbox server with its seeds, mounted at ./mnt. `make demo` and `make demo-stop` call it.
#
#   scripts/demo.sh start VENV | stop VENV
#
# Everything it keeps is under .demo: the server's data, the drive's cache and state, the logs. Copied-in pictures
# are therefore there again the next time. DEMO_PORT (default 8700) is the server's; storage takes the port after it.
set -eu

action=$1
pictofs=$2/bin/pictofs
demo=$PWD/.demo
mnt=$PWD/mnt
pid_file=$demo/sandbox.pid
log=$demo/sandbox.log
port=${DEMO_PORT:-8700}

# Only the demo's mount sees these: its queue and cache have nothing to do with those of a real account.
unset PICTOGRAPH_PROFILE
export PICTOGRAPH_API_KEY=pk_live_sandbox PICTOFS_STATE_DIR="$demo/state" PICTOFS_CACHE_DIR="$demo/cache"

say() { printf '%s\n' "$*" >&2; }

# The kernel's list, so that a mount whose daemon has died counts too.
mounted() { grep -qF " $(printf '%s' "$mnt" | sed 's/\\/\\134/g; s/ /\\040/g') " /proc/self/mounts; }

# A pid from an earlier boot may be somebody else's by now: only a sandbox on our data is the demo's server.
server_runs() {
    [ -s "$pid_file" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$pid_file")/cmdline" | grep -qF -e "--data $demo/data"
}

# wait_until SECONDS COMMAND…
wait_until() {
    tries=$(($1 * 10))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

server_stopped() { ! server_runs; }

server_ready() {
    kill -0 "$(cat "$pid_file")" 2>/dev/null || {
        tail -n 5 "$log" >&2
        say "The demo's server did not start. If its port is taken: make demo DEMO_PORT=8800"
        exit 1
    }
    grep -q '^# ready' "$log"
}

start() {
    mkdir -p "$demo"
    if ! server_runs; then
        nohup "$pictofs" sandbox --port "$port" --storage-port $((port + 1)) --api-key "$PICTOGRAPH_API_KEY" \
            --data "$demo/data" >"$log" 2>&1 </dev/null &
        echo $! >"$pid_file"
    fi
    wait_until 60 server_ready || {
        say "The demo's server is not ready after a minute; see .demo/sandbox.log"
        exit 1
    }
    PICTOGRAPH_BASE_URL=$(sed -n 's/^export PICTOGRAPH_BASE_URL=//p' "$log")
    export PICTOGRAPH_BASE_URL
    if ! { mounted && "$pictofs" status "$mnt" >/dev/null 2>&1; }; then
        [ -d "$mnt" ] || mounted || mkdir "$mnt"
        "$pictofs" mount "$mnt"
    fi
}

stop() {
    if mounted; then
        "$pictofs" umount --drain-timeout 30 "$mnt" || fusermount3 -u "$mnt" || fusermount3 -uz "$mnt"
    fi
    if server_runs; then
        kill "$(cat "$pid_file")"
        wait_until 10 server_stopped || kill -9 "$(cat "$pid_file")"
    fi
    rm -f "$pid_file"
    [ ! -d "$mnt" ] || rmdir "$mnt"
    say "The demo is stopped. What it kept is in .demo (make clean removes it)."
}

show() {
    picture=$(cd "$mnt/.." && find mnt -type f -name '*.jpg' ! -path '*[^A-Za-z0-9._/-]*' | sort | head -n 1)
    folder=${picture%/*}
    cat <<END

The sandbox is mounted at ./mnt. Try, from here:

  ls -l mnt                                     the datasets
  ls -lR mnt | less                             all pictures; one API request lists a whole dataset
  cp $picture /tmp/
                                                copy a picture out, or open ./mnt in your file manager
  cp $picture $folder/mine.jpg
                                                copy one in: its upload starts when cp is done
  $2/bin/pictofs status mnt                     is everything safe, and what is going up
  $2/bin/pictofs wait mnt                       wait until all is on the server
  rm $folder/mine.jpg
                                                archived on the server, not gone

The server: $PICTOGRAPH_BASE_URL, key $PICTOGRAPH_API_KEY (a public example, not a secret).
Stop it all: make demo-stop
END
}

case $action in
start)
    start "$@"
    show "$@"
    ;;
stop) stop ;;
*)
    say "usage: scripts/demo.sh start|stop VENV"
    exit 2
    ;;
esac
