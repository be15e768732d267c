#!/bin/busybox sh
# Process 1: makes a host out of a kernel, runs /job, and switches the machine off. What the job
# writes goes to the second serial line, where nothing of the kernel's mixes with it.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TMPDIR=/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do
    insmod "$module" || echo "init: $module can't be loaded" >/dev/console
done
ip link set lo up

if [ -n "$INTERACTIVE" ]; then
    setsid cttyhack sh /job
else
    stty -F /dev/ttyS1 raw
    sh /job >/dev/ttyS1 2>&1
    echo "job ended with status $?" >/dev/ttyS1
fi
poweroff -f
