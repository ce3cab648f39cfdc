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
rm -rf "$dir"
