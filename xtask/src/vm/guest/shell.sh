# Two network namespaces joined by a cable: this one, and one with tools. Then a shell.
mkdir -p /sys/fs/cgroup/agents /www
ip netns add tools
ip link add veth0 type veth peer name veth0 netns tools
ip addr add 192.0.2.1/24 dev veth0
ip link set veth0 up
ip netns exec tools ip link set lo up
for host in 10 20 99; do
    ip netns exec tools ip addr add "192.0.2.$host/24" dev veth0
done
ip netns exec tools ip link set veth0 up
echo "hello from a tool" >/www/index.html
ip netns exec tools httpd -h /www

cat >/bin/agent <<'EOF'
#!/bin/sh
# Runs a command as the agent of the policy: in its cgroup.
echo $$ >/sys/fs/cgroup/agents/cgroup.procs
exec "$@"
EOF
chmod +x /bin/agent

cat <<EOF

$(uname -sr), agent-enforcer in force; its policy is in /policy. Things to try:
  agent wget -qO- http://192.0.2.20/     a tool that needs no grant
  agent wget -qO- http://192.0.2.99/     no tool: denied
  agent wget -qO- http://192.0.2.10/ &   waits for a grant
  agent-enforcer pending
  agent-enforcer grant issue --agent demo-worker --tool tickets --for 5m --on-behalf-of you@example.com --task try
  agent-enforcer events
\`exit\` switches the machine off, Ctrl-A X does it at once.
EOF
exec busybox sh
