#!/bin/sh
# Make the virtual host, the users and the exchanges of definitions.json, once, and give the users their passwords, each time.
# Passwords come from AIKI_ORCHESTRATOR_PASSWORD, AIKI_SERVER_PASSWORD and AIKI_WORKER_PASSWORD. Arguments go to rabbitmqctl
# (-n rabbit@host). Repeating it is harmless.
set -eu
definitions=${DEFINITIONS:-$(dirname "$0")/definitions.json}

for user in ORCHESTRATOR SERVER WORKER; do
    eval "password=\${AIKI_${user}_PASSWORD:-}"
    if [ -z "$password" ]; then
        echo "setup: AIKI_${user}_PASSWORD is not set" >&2
        exit 2
    fi
done

# Importing empties the passwords, which would lock out for a moment whoever connects: so only where it is needed.
if ! rabbitmqctl -q "$@" list_users --no-table-headers | grep -q '^aiki-orchestrator[[:space:]]'; then
    rabbitmqctl -q "$@" import_definitions "$definitions"
fi
# On standard input: others can see arguments.
printf '%s\n' "$AIKI_ORCHESTRATOR_PASSWORD" | rabbitmqctl -q "$@" change_password aiki-orchestrator
printf '%s\n' "$AIKI_SERVER_PASSWORD" | rabbitmqctl -q "$@" change_password aiki-server
printf '%s\n' "$AIKI_WORKER_PASSWORD" | rabbitmqctl -q "$@" change_password aiki-worker
