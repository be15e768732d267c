# Runs test programs; what they write beside their results is shown at their end.
export AGENT_ENFORCER_BIN=/bin/agent-enforcer AGENT_PROBE_BIN=/bin/agent-probe
export AGENT_ENFORCER_TEST_SLOWNESS=10
failed=0

run() {
    program=$1
    shift
    echo "     Running $program"
    "$program" --exact --include-ignored --test-threads=1 "$@" 2>/tmp/stderr || {
        failed=1
        cat /tmp/stderr
    }
}

