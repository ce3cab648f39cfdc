# Makes namespaces of its own for mounts and network into the machine of a real node, and runs the program in $2 and on. $1 is the node's
# address. Whatever a node writes to lies in memory, or in the cluster's directory, and goes with the last process that is in here.
set -eu
address=$1
shift

busybox ip link set lo up
busybox ip address add "$address/32" dev lo

for dir in /run /var/lib /var/log; do
	mount -t tmpfs -o mode=755 node $dir
done

# A kubelet tunes the kernel: here it tunes a copy.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	mkdir -p "/run/sysctl/${setting%/*}"
	cat "/proc/sys/$setting" >"/run/sysctl/$setting"
	mount --bind "/run/sysctl/$setting" "/proc/sys/$setting"
done
exec "$@"
