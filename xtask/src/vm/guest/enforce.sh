# Starts the daemon on the policy that is here, and waits until it answers.
mkdir -p /var/lib/agent-enforcer /var/log/agent-enforcer /run/agent-enforcer
chmod 700 /policy /var/lib/agent-enforcer /var/log/agent-enforcer /run/agent-enforcer
agent-enforcer run --policy /policy --plane "${PLANE:-auto}" </dev/null >/tmp/daemon.log 2>&1 &
daemon=$!
until agent-enforcer status >/dev/null 2>&1; do
    if ! kill -0 "$daemon" 2>/dev/null; then
        cat /tmp/daemon.log
        exit 1
    fi
    sleep 0.1
done
