# Ends what a cluster consists of. $1 is the cluster's directory; standard input is a pipe of which only the process that
# started the cluster holds the other end: it closes when that process says so or dies, however it dies.
dir=$1
trap '' INT TERM HUP
read -r _

# A process of the cluster names the directory on its command line; a pid that was reused by a stranger does not.
is_ours() {
	{ tr '\0' ' ' <"/proc/$1/cmdline" || ps -o args= -p "$1"; } 2>/dev/null | grep -qF "$dir"
}

rm -rf "$dir/bin" # from here on nothing new can start
while read -r pid; do
	while is_ours "$pid"; do
		kill -9 "$pid"
		sleep 0.05
	done
done <"$dir/pids"

# What else ran on a real node is in its cgroups. A cgroup can be removed when the last of them is gone, and with it all mounts.
name=${dir##*/}
for cgroup in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
	while [ -d "$cgroup" ]; do
		find "$cgroup" -name cgroup.procs -exec cat {} + | xargs -r kill -9
		find "$cgroup" -depth -type d -exec rmdir {} +
		sleep 0.05
	done 2>/dev/null
done
rm -rf "$dir"
