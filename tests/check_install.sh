#!/usr/bin/env bash
# Both README commands in a fresh clone, with an empty home folder and no cache: what somebody has who finds the project.
#
#     tests/check_install.sh                  everything: install, make, make again, make test (half an hour)
#     tests/check_install.sh --only clone     only up to a step: clone, install, make, test
#     tests/check_install.sh --keep           leave the folder where it was done
#
# Takes what is committed (HEAD), and says so if something is not. Of the environment only PATH stays, and what says where
# packages and certificates are (PIP_*, SSL_*, REQUESTS_CA_BUNDLE, *_proxy). Ends with the first step that fails; prints how
# long each took. The folder is removed in the end, however it ends.
set -euo pipefail

upto=test keep=
while [ $# -gt 0 ]; do
    case "$1" in
        --only) upto="${2:?--only clone, install, make or test}"; shift 2 ;;
        --keep) keep=yes; shift ;;
        *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
case "$upto" in clone|install|make|test) ;; *) echo "--only: found '$upto'; allowed: clone, install, make, test" >&2; exit 2 ;; esac

project="$(cd "$(dirname "$0")/.." && pwd)"
place="$(mktemp -d "${TMPDIR:-/tmp}/check-install.XXXXXX")"
finish() {
    status=$?
    if [ -n "$keep" ]; then echo "kept: $place"; else rm -rf "$place"; fi
    [ "$status" -eq 0 ] && echo "check-install: all well" || echo "check-install: failed ($status)" >&2
}
trap finish EXIT
mkdir "$place/home" "$place/tmp"

clean() {  # a command with nothing of this shell's environment but what reaches the registries
    local kept=() name
    while IFS='=' read -r name _; do
        case "$name" in
            PIP_*|SSL_*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|http_proxy|https_proxy|no_proxy|HTTP_PROXY|HTTPS_PROXY|NO_PROXY)
                kept+=("$name=${!name}") ;;
        esac
    done < <(env)
    env -i PATH="$PATH" HOME="$place/home" TMPDIR="$place/tmp" LANG=C.UTF-8 PIP_NO_CACHE_DIR=1 "${kept[@]}" "$@"
}

step() {  # step NAME COMMAND...: in the clone; its time, or the end of what it printed
    local name="$1" from=$SECONDS
    shift
    if (cd "$place/project" && clean "$@") > "$place/$name.log" 2>&1; then
        printf '%-8s %5d s   %s\n' "$name" $((SECONDS - from)) "$*"
    else
        printf '%-8s failed after %d s: %s\n' "$name" $((SECONDS - from)) "$*" >&2
        tail -n 40 "$place/$name.log" >&2
        exit 1
    fi
    [ "$name" != "$upto" ] || exit 0
}

[ -z "$(git -C "$project" status --porcelain)" ] || echo "note: what is not committed is not tested"
git clone --quiet --no-hardlinks "$project" "$place/project"
step clone git log -1 --format=%h
step install make .venv/.ready
step make make
test -s "$place/project/results/organism/report.html"
step again make
grep -q "Nothing to be done" "$place/again.log"
step test make test
