#!/bin/sh
# Makes cluster.env with fresh secrets for compose.yaml, once; prints the administrator's token, which is not stored.
set -eu
umask 077
cd "$(dirname "$0")"
[ ! -e cluster.env ] || { echo "cluster.env is there already; remove it to make new secrets (every token becomes void)" >&2; exit 1; }
random() { head -c 36 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
admin=$(random); postgres=$(random)
nats=t$(random)   # begins with a letter: NATS takes what begins with a digit for a number
routes="nats://cell:$nats@nats-1:6222, nats://cell:$nats@nats-2:6222, nats://cell:$nats@nats-3:6222"
cat > cluster.env <<END
GLASSBRIDGE_PUBLIC_URL=${1:-https://glass.home.example}
GLASSBRIDGE_AUTH__SECRET=$(random)
GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256=$(printf %s "$admin" | sha256sum | cut -d' ' -f1)
GLASSBRIDGE_STORE__URL=postgresql://glassbridge:$postgres@postgres/glassbridge
GLASSBRIDGE_CLUSTER__TOKEN=$nats
NATS_TOKEN=$nats
NATS_ROUTES=[$routes]
POSTGRES_PASSWORD=$postgres
END
echo "cluster.env is made. The administrator's token, not shown again:" >&2
echo "$admin"
