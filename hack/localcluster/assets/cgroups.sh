# Runs a program of a real node in cgroups of the cluster's own, one in each hierarchy. $1 is the cluster's directory, whose name is
# theirs too; the rest is the program. What the program starts stays in there: that is how the watchdog finds it.
set -eu
name=${1##*/}
shift

hierarchies=/sys/fs/cgroup
[ -f $hierarchies/cgroup.procs ] || hierarchies=/sys/fs/cgroup/* # version 1
for hierarchy in $hierarchies; do
	# Of version 2, a cgroup with others inside holds no processes: these are beside the pods.
	for cgroup in "$hierarchy/$name" "$hierarchy/$name/daemons"; do
		mkdir -p "$cgroup"
		for file in cpuset.cpus cpuset.mems; do
			[ ! -f "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$cgroup/$file" # of version 1, they begin empty
		done
	done
	echo $$ >"$hierarchy/$name/daemons/cgroup.procs"
done
exec "$@"
