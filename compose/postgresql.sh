#!/bin/sh
# Runs PostgreSQL, as the user of the image, on the volume at /var/lib/postgresql. For every secret
# NAME-password there is a database NAME that only the role NAME gets into, over TLS, by that
# password; roles and passwords are made what the secrets say at each start. The superuser is
# whoever runs this, over the socket in /tmp, and nobody from outside.
# In the image this is `watari-postgresql`.
set -eu

data=/var/lib/postgresql/data
own=$(id -un)
socket=/tmp
starting=/tmp/starting

if [ ! -e "$data" ]; then
    rm -rf "$data.new"
    initdb --pgdata "$data.new" --username "$own" --auth reject --encoding UTF8 --no-locale
    mv "$data.new" "$data"
fi

rules=$data/pg_hba.conf
echo "local all $own peer" >"$rules"
for secret in /run/secrets/*-password; do
    name=$(basename "$secret" -password)
    echo "hostssl $name $name all scram-sha-256" >>"$rules"
done

# Nobody connects to this one: it has no port, and another socket. Statements with passwords are
# not told even if they fail.
mkdir -p "$starting"
pg_ctl start --pgdata "$data" --silent --wait --options "-c listen_addresses='' \
    -c unix_socket_directories=$starting -c password_encryption=scram-sha-256 \
    -c log_statement=none -c log_min_error_statement=panic"
for secret in /run/secrets/*-password; do
    SECRET=$secret psql --host "$starting" --username "$own" --dbname postgres --no-psqlrc --quiet \
        --set ON_ERROR_STOP=1 --set name="$(basename "$secret" -password)" <<'SQL'
\set password `cat "$SECRET"`
SELECT format('CREATE ROLE %I', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
pg_ctl stop --pgdata "$data" --silent --wait --mode fast
rm -rf "$starting"

exec postgres -D "$data" \
    -c listen_addresses='*' \
    -c unix_socket_directories="$socket" \
    -c max_connections=200 \
    -c password_encryption=scram-sha-256 \
    -c ssl=on \
    -c ssl_min_protocol_version=TLSv1.3 \
    -c ssl_cert_file=/etc/watari/cert.pem \
    -c ssl_key_file=/run/secrets/key.pem
