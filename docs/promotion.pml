/* Copyright The SidecarSet Authors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * How a Deployment's template follows its pods without a rollout (controllers/promotion), among those who write the same objects at the same
 * time: the Deployment controller, the ReplicaSet controller, and a user. "make model" checks it; promotion.md says what it shows.
 *
 * Every pod runs the new revision of the sidecar when it begins. One ReplicaSet is running, with the old template. An older, idle one may have
 * the new template: the twin.
 *
 * Whoever reads, reads a cache, which is up to LAG versions behind: one for Deployments and one for ReplicaSets, independently of each other.
 * A step is "decide from the caches, and write": nothing is lost by doing both at once, since a decision that waits is a cache that lags.
 * What takes several writes takes several steps, and anybody may come between.
 *
 * Without an event there is nothing to do, and no run is endless: so whatever has to hold in the end is asserted when nobody has
 * anything to do (settled), and that every run gets there is checked as the absence of cycles.
 */

#ifndef LAG
#define LAG 2          /* versions that a cache is behind at most */
#endif
#ifndef CRASHES
#define CRASHES 1      /* of the operator */
#endif
#ifndef STOPS
#define STOPS 1        /* of the Deployment controller */
#endif
#ifndef HURRIES
#define HURRIES 1      /* times that the clock runs although somebody has something to do */
#endif
#ifndef SETS
#define SETS 4         /* ReplicaSets, by age */
#endif
#define TWIN    0
#define RUNNING 1
#define NONE    SETS

/* Templates, of Deployments and ReplicaSets: what the user has in them, and the revision of the sidecar. */
#define EDITED      1
#define NEW         2
#define template(x) ((x) & 3)

/* A Deployment: spec and annotations, status. */
#define OURS           4     /* paused by the operator */
#define USERS          8     /* paused by the user; both may be, as two managers of one field */
#define paused(x)      ((x) & (OURS | USERS))
#define INTENT         16    /* a promotion is under way: of which ReplicaSet, and what the user had in the template when it began */
#define intentEdit(x)  (((x) >> 11) & 1)
#define intentSet(x)   (((x) >> 12) & 7)
#define replicas(x)    (((x) >> 7) & 3)
#define SEEN           32    /* status.observedGeneration is the generation */
#define CONDITION      64    /* status has the condition DeploymentPaused */
#define updated(x)     (((x) >> 9) & 3)     /* status.updatedReplicas */
#define collisions(x)  (((x) >> 15) & 1)    /* status.collisionCount */
#define setReplicas(n) ((n) << 7)
#define setUpdated(n)  ((n) << 9)
#define ALL_UPDATED    setUpdated(3)
#define ALL_REPLICAS   setReplicas(3)
#define INTENT_FIELDS  (INTENT | (15 << 11))
#define COLLISION      (1 << 15)

/* A ReplicaSet. */
#define EXISTS    4
#define want(y)   (((y) >> 3) & 3)          /* spec.replicas */
#define have(y)   (((y) >> 5) & 3)          /* status.replicas: its pods, which are available */
#define SIZED     128                       /* annotation desired-replicas is what the user scaled to */
#define MARKED    256                       /* the Deployment controller copied the intent of the promotion under way to it */
#define setWant(n) ((n) << 3)
#define setHave(n) ((n) << 5)

/* The API server: versions, the newest first. Older ones are kept as long as somebody's cache has them. */
int d[LAG + 1];
short r[(LAG + 1) * SETS];
#define set(lag, i) r[(lag) * SETS + (i)]

/* Names of ReplicaSets: they stem from the template and the collision count at their birth. FOREIGN: from a template before that. */
#define FOREIGN 15
#define nameFor(x) (template(x) + 4 * collisions(x))
byte name[SETS];
byte born = 2;

/* The operator. */
bit opUp = 1, opCan;       /* opCan: there is something for it to write */
byte opD, opR;         /* versions that its caches are behind */

/* The Deployment controller. A sync that wrote once goes on with what it has read. */
#define IDLE   0
#define SYNCED 1       /* it wrote the condition; what follows for ReplicaSets comes next */
#define SCALED 2       /* it wrote a ReplicaSet; the status comes next */
bit dcUp = 1, dcGone, dcCan;
byte dcD, dcR, phase;

/* The clock: of the 30 s of a promotion, half are over (late), all are over (expired). */
bit late, expired;
byte hurries = HURRIES;

/* The user's acts, and that the operator wrote the template of a Deployment without pods, which makes a ReplicaSet without pods. */
bit resumed, plainly;
#define scaled (replicas(d[0]) != 1)

/* Scratch: not part of any state. */
hidden int dep, result;
hidden short one;
hidden byte at, version, target, other, newSet, busy, busySet, latest, total, available, running, biggest, action, goal, resized, fresh;

inline forgetVersions() {
	version = LAG;
	do
	:: version > 0 && version > opD && version > dcD -> d[version] = 0; version--
	:: else -> break
	od;
	version = LAG;
	do
	:: version > 0 && version > opR && version > dcR ->
		at = 0;
		do :: at < SETS -> set(version, at) = 0; at++ :: else -> break od;
		version--
	:: else -> break
	od
}

#define behind(lag) (lag < LAG -> lag + 1 : LAG)

/* Makes room for a new version of the Deployment. A change of spec or annotations makes a new generation. */
inline newDeployment(next) {
	version = LAG;
	do :: version > 0 -> d[version] = d[version - 1]; version-- :: else -> break od;
	d[0] = next;
	if :: opUp -> opD = behind(opD) :: else fi;
	if :: dcUp -> dcD = behind(dcD) :: else fi;
	forgetVersions()
}

inline newReplicaSet(index, next) {
	version = LAG;
	do
	:: version > 0 ->
		at = 0;
		do :: at < SETS -> set(version, at) = set(version - 1, at); at++ :: else -> break od;
		version--
	:: else -> break
	od;
	set(0, index) = next;
	if :: opUp -> opR = behind(opR) :: else fi;
	if :: dcUp -> dcR = behind(dcR) :: else fi;
	forgetVersions()
}

/* fresh says whether nobody wrote a ReplicaSet since the version in a cache: its resourceVersion is still the same. */
inline compare(lag, index) {
	fresh = 1;
	version = lag;
	do
	:: version > 0 ->
		if :: set(version, index) != set(version - 1, index) -> fresh = 0 :: else fi;
		version--
	:: else -> break
	od
}

#define asWanted(index) (want(set(0, index)) == have(set(0, index)))
#if SETS == 4
#define podsSettled (asWanted(0) && asWanted(1) && asWanted(2) && asWanted(3))
#else
#define podsSettled (asWanted(0) && asWanted(1) && asWanted(2) && asWanted(3) && asWanted(4))
#endif
#define opSettled (opUp && !opCan && opD == 0 && opR == 0)
#define dcSettled (dcGone || (dcUp && !dcCan && dcD == 0 && dcR == 0))
#define settled   (opSettled && dcSettled && podsSettled)

/* Finds what the Deployment controller and the end look for, in the ReplicaSets of a cache. */
inline survey(deployment, lag) {
	newSet = NONE; busy = 0; busySet = NONE; latest = NONE; total = 0; available = 0; resized = 0; biggest = NONE;
	at = 0;
	do
	:: at < SETS ->
		one = set(lag, at);
		if
		:: one & EXISTS ->
			latest = at;
			if :: newSet == NONE && template(one) == template(deployment) -> newSet = at :: else fi;  /* the oldest equal one */
			if
			:: want(one) > 0 ->
				busy++; busySet = at;
				if :: ((one & SIZED) != 0) != (replicas(deployment) != 1) -> resized = 1 :: else fi;
				if :: biggest == NONE || want(one) > want(set(lag, biggest)) -> biggest = at :: else fi
			:: else
			fi;
			total = total + want(one);
			available = available + have(one)
		:: else
		fi;
		at++
	:: else -> break
	od
}

/* What has to hold when nobody has anything to do, and no clock is running. */
inline judge() {
	if
	:: settled && !((d[0] & INTENT) && !expired) ->
		assert(!(d[0] & INTENT));                                    /* no promotion is left half done, */
		assert(!(d[0] & OURS));                                      /* I3: nor a pause that is not the user's. */
		if
		:: !dcGone ->
			survey(d[0], 0);
			assert(d[0] & SEEN);
			assert((d[0] & NEW) || (paused(d[0]) && (busy != 1 || newSet != busySet)));   /* convergence: only a rollout that the user holds up holds it up */
			if
			:: !paused(d[0]) ->
				assert(newSet != NONE);
				assert(want(set(0, newSet)) == replicas(d[0]) && total == replicas(d[0]))
			:: else
			fi
		:: else
		fi
	:: else
	fi
}

/* ---- The operator: controllers/promotion/promotion.go, and the writes of controllers/deployment_inplace.go. ---- */

#define WAIT              0
#define APPLY_PLAINLY     1
#define BEGIN             2
#define DELETE_TWIN       3
#define PATCH_REPLICA_SET 4
#define FINISH            5
#define UNDO              6

#ifdef NO_WAIT2
#define observed(x) true
#else
#define observed(x) ((x) & SEEN)
#endif
#ifdef NO_WAIT4
#define recognised(x, y) true
#else
#define recognised(x, y) (((x) & SEEN) && updated(x) == have(y) && (have(y) > 0 || isMarked(y)))
#endif
/* As it was once: the count of updated pods is all that tells, and none is none. */
#ifdef COUNT_ALONE
#define isMarked(y) true
#else
#define isMarked(y) ((y) & MARKED)
#endif
#ifdef NO_DEADLINE
#define timedOut false
#else
#define timedOut expired
#endif
/* As it was once: step 3 is taken whatever the time. */
#ifdef PATCH_LATE
#define patchesLate(x) ((x) & SEEN)
#else
#define patchesLate(x) false
#endif

/* start: without an intent, when the template is not at the new revision. */
inline start() {
	running = 0; at = 0;
	do
	:: at < SETS ->
		one = set(opR, at);
		if :: (one & EXISTS) && (want(one) > 0 || have(one) > 0) -> running++; target = at :: else fi;
		at++
	:: else -> break
	od;
	if
	:: dep & NEW
	:: else ->
		if
		:: replicas(dep) == 0 -> action = APPLY_PLAINLY
		:: replicas(dep) > 0 && (dep & SEEN) && running == 0 && paused(dep) -> action = APPLY_PLAINLY
		:: replicas(dep) > 0 && (dep & SEEN) && running == 1 && template(set(opR, target)) == template(dep) -> action = BEGIN
		:: else
		fi
	fi
}

/* proceed: with an intent. Its ReplicaSet is the target; other is an older one with the new template. */
inline proceed() {
	target = intentSet(dep);
	one = set(opR, target);
	other = 0;
	do
	:: other < target && !((set(opR, other) & EXISTS) && template(set(opR, other)) == template(dep)) -> other++
	:: else -> break
	od;
#ifdef NO_TWIN
	other = target;
#endif
	if
	:: !(one & EXISTS) || (dep & EDITED) != intentEdit(dep) || !paused(dep) -> action = FINISH
	:: else ->
		if
		:: template(one) != template(dep) && timedOut && !patchesLate(dep) -> action = UNDO
		:: template(one) != template(dep) && !observed(dep) -> skip      /* 2. */
		:: else ->
			if
			:: other < target ->
				if
				:: want(set(opR, other)) == 0 && have(set(opR, other)) == 0 -> action = DELETE_TWIN
				:: else -> if :: timedOut -> action = FINISH :: else fi
				fi
			:: else ->
				if
				:: template(one) != template(dep) -> if :: !late || patchesLate(dep) -> action = PATCH_REPLICA_SET :: else fi
				:: else -> if :: recognised(dep, one) || timedOut -> action = FINISH :: else fi
				fi
			fi
		fi
	fi
}

inline next() {
	dep = d[opD];
	action = WAIT;
	if :: dep & INTENT -> proceed() :: else -> start() fi
}

/* A write is refused when somebody wrote the object since: the cache is behind. */
inline opPlan() {
	opCan = 0;
	if
	:: opUp ->
		next();
#ifdef NO_GUARD
		opCan = (action != WAIT)
#else
		if
		:: action == WAIT
		:: action == PATCH_REPLICA_SET -> compare(opR, target); opCan = fresh
		:: action == DELETE_TWIN -> compare(opR, other); opCan = fresh
		:: else -> opCan = (opD == 0)
		fi
#endif
	:: else
	fi
}

/* Another promotion has another intent. */
inline forgetMarks() {
	at = 0;
	do :: at < (LAG + 1) * SETS -> r[at] = r[at] & ~MARKED; at++ :: else -> break od
}

inline opWrite() {
	next();
	if
	:: action == APPLY_PLAINLY ->
		printf("operator               writes the new template: there are no pods\n");
		plainly = 1;
		newDeployment((d[0] & ~SEEN) | NEW)
	:: action == BEGIN ->
		printf("operator               1. begins: new template, pause, intent\n");
		late = 0; expired = 0;
		forgetMarks();
		newDeployment((d[0] & ~(INTENT_FIELDS | SEEN)) | NEW | OURS | INTENT | ((dep & EDITED) << 11) | (target << 12))
	:: action == DELETE_TWIN ->
		printf("operator               3. deletes the idle twin, ReplicaSet %d\n", other);
		assert(want(set(0, other)) == 0 && have(set(0, other)) == 0);    /* never one with pods */
		name[other] = 0;
		newReplicaSet(other, 0)
	:: action == PATCH_REPLICA_SET ->
		printf("operator               3. gives ReplicaSet %d the new template\n", target);
		newReplicaSet(target, (set(0, target) & ~3) | template(dep))
	:: action == FINISH ->
		printf("operator               5. finishes: takes back its pause and the intent\n");
		newDeployment(d[0] & ~(OURS | INTENT_FIELDS | SEEN))
	:: action == UNDO ->
		printf("operator               undoes: old template, takes back its pause and the intent\n");
		newDeployment(d[0] & ~(NEW | OURS | INTENT_FIELDS | SEEN))
	fi
}

/* ---- The Deployment controller: pkg/controller/deployment in Kubernetes. ---- */

#define SCALE  7
#define CREATE 8
#define MARK   9

#define least(a, b) ((a) < (b) -> (a) : (b))

/* sameIntent says whether the Deployment in the cache has the intent of the promotion under way. */
inline sameIntent() {
	fresh = 1; version = 0;
	do :: version <= dcD -> if :: d[version] & INTENT :: else -> fresh = 0 fi; version++ :: else -> break od
}

/* What a sync does with ReplicaSets: action, t and goal. At most one write; the next sync does what is left. */
inline decide() {
	survey(dep, dcR);
	action = WAIT; target = NONE; goal = 0;
	other = (replicas(dep) > 0 -> replicas(dep) + 1 : 0);                    /* maxSurge 25 % is one; maxUnavailable 25 % is none */
	sameIntent();
	if
	:: fresh && newSet != NONE && !(set(dcR, newSet) & MARKED) -> action = MARK; target = newSet   /* getNewReplicaSet */
	:: else -> decideScale()
	fi
}

inline decideScale() {
	if
	:: paused(dep) || resized ->                                       /* sync, scale: no new ReplicaSet */
		if
		:: busy == 0 -> target = (newSet != NONE -> newSet : latest); goal = replicas(dep)
		:: busy == 1 -> target = busySet; goal = replicas(dep)
		:: else ->
			if
			:: newSet != NONE && want(set(dcR, newSet)) == replicas(dep) && have(set(dcR, newSet)) == replicas(dep) &&
			   ((set(dcR, newSet) & SIZED) != 0) == (replicas(dep) != 1) ->
				target = 0;
				do :: target == newSet || want(set(dcR, target)) == 0 -> target++ :: else -> break od
			:: else ->                                               /* the biggest takes the difference; the real one spreads it */
				if
				:: other != total -> target = biggest; goal = (other + want(set(dcR, target)) > total -> other + want(set(dcR, target)) - total : 0)
				:: else ->                                           /* the annotation alone */
					target = 0;
					do
					:: target < SETS && (want(set(dcR, target)) == 0 || ((set(dcR, target) & SIZED) != 0) == (replicas(dep) != 1)) -> target++
					:: else -> break
					od;
					if :: target < SETS -> goal = want(set(dcR, target)); action = SCALE :: else fi
				fi
			fi
		fi;
		if :: target < SETS && want(set(dcR, target)) != goal -> action = SCALE :: else fi
	:: else ->                                                       /* rolloutRolling */
		if
		:: newSet == NONE -> action = CREATE; goal = (other > total -> least(other - total, replicas(dep)) : 0)
		:: else ->
			one = set(dcR, newSet);
			if
			:: want(one) > replicas(dep) -> action = SCALE; target = newSet; goal = replicas(dep)
			:: want(one) < replicas(dep) && other > total -> action = SCALE; target = newSet; goal = want(one) + least(other - total, replicas(dep) - want(one))
			:: else ->
				if
				:: total > want(one) && total + have(one) > replicas(dep) + want(one) ->
					result = total + have(one) - replicas(dep) - want(one);     /* that many may go */
					target = 0;                                           /* first those that are not available, */
					do :: target < SETS && (target == newSet || want(set(dcR, target)) <= have(set(dcR, target))) -> target++ :: else -> break od;
					if
					:: target < SETS -> result = least(result, want(set(dcR, target)) - have(set(dcR, target)))
					:: else ->                                       /* then the oldest */
						result = (available > replicas(dep) -> available - replicas(dep) : 0);
						target = 0;
						do :: target == newSet || want(set(dcR, target)) == 0 -> target++ :: else -> break od
					fi;
					if :: result > 0 -> action = SCALE; goal = want(set(dcR, target)) - least(result, want(set(dcR, target))) :: else fi
				:: else
				fi
			fi
		fi
	fi
}

/* nameTaken finds the ReplicaSet whose name a new one would have. */
inline nameTaken() {
	other = 0;
	do :: other < born && !((set(0, other) & EXISTS) && name[other] == nameFor(dep)) -> other++ :: else -> break od
}

/* calculateStatus: of the ReplicaSets that the sync has read. */
inline status() {
	survey(dep, dcR);
	result = (dep & ~ALL_UPDATED) | SEEN | (newSet != NONE -> setUpdated(have(set(dcR, newSet))) : 0)
}

#define conditionIsRight(x) ((paused(x) != 0) == (((x) & CONDITION) != 0))

/* Whether a sync would write something, and it would not be refused. One that can not go on is over. */
inline dcPlan() {
	dcCan = 0;
	dep = d[dcD];
	if
	:: dcUp && phase == SCALED ->
		status();
		if :: dcD == 0 && result != dep -> dcCan = 1 :: else -> phase = IDLE fi
	:: else
	fi;
	if
	:: !dcUp || phase == SCALED
	:: dcUp && phase == IDLE && !conditionIsRight(dep) -> dcCan = (dcD == 0)
	:: else ->
		decide();
		if
		:: action == SCALE || action == MARK -> compare(dcR, target); dcCan = fresh
		:: action == CREATE -> nameTaken(); dcCan = (other == born || ((set(dcR, other) & EXISTS) && dcD == 0))
		:: action == WAIT && phase == IDLE -> status(); dcCan = (dcD == 0 && result != dep)
		:: else
		fi;
		if :: !dcCan -> phase = IDLE :: else fi
	fi
}

/* The write to a ReplicaSet. */
inline act() {
	if
	:: action == MARK ->
		printf("deployment controller  copies the intent to ReplicaSet %d\n", target);
		newReplicaSet(target, set(0, target) | MARKED);
		phase = SCALED
	:: action == SCALE ->
		printf("deployment controller  scales ReplicaSet %d to %d\n", target, goal);
		newReplicaSet(target, (set(0, target) & ~(SIZED | setWant(3))) | setWant(goal) | (replicas(dep) != 1 -> SIZED : 0));
		phase = SCALED
	:: action == CREATE ->
		nameTaken();
		if
		:: other == born ->
			printf("deployment controller  creates ReplicaSet %d for %d pods\n", born, goal);
			assert((d[0] & EDITED) || resumed || plainly);   /* I4: no additional ReplicaSet */
			assert(born < SETS);
			name[born] = nameFor(dep);
			newReplicaSet(born, EXISTS | template(dep) | setWant(goal) | (replicas(dep) != 1 -> SIZED : 0));
			born++;
			phase = SCALED
		:: else ->
			printf("deployment controller  finds the name taken, and counts a collision\n");
			assert(!collisions(dep));
			newDeployment(d[0] | COLLISION);
			phase = IDLE
		fi
	fi
}

/* settle ends every step. */
inline settle() {
	opPlan();
	dcPlan();
	judge()
}

/* ---- The processes ---- */

proctype Operator() {
end:
	do
	:: atomic {
		if
		:: d_step { opUp && opD > 0 -> opD--; forgetVersions() }; skip
		:: d_step { opUp && opR > 0 -> opR--; forgetVersions() }; skip
		:: d_step { opCan && dcD < LAG && dcR < LAG -> opWrite() }; skip
		fi;
		d_step { settle() }
	}
	od
}

proctype DeploymentController() {
end:
	do
	:: atomic {
		if
		:: d_step { dcUp && phase == IDLE && dcD > 0 -> dcD--; forgetVersions() }; skip
		:: d_step { dcUp && phase == IDLE && dcR > 0 -> dcR--; forgetVersions() }; skip
		:: d_step {
			dcCan && opD < LAG && opR < LAG ->
			dep = d[dcD];
			decide();
		if
			:: phase == IDLE && !conditionIsRight(dep) ->                /* checkPausedConditions */
				printf("deployment controller  writes the condition: paused %d\n", paused(dep) != 0);
				newDeployment(dep ^ CONDITION);
				phase = SYNCED
			:: (phase == SYNCED || conditionIsRight(dep)) && phase != SCALED && action != WAIT -> act()
			:: else ->                                                   /* syncDeploymentStatus */
				status();
				printf("deployment controller  has seen the Deployment, and counts %d updated pods\n", updated(result));
				newDeployment(result);
				phase = IDLE
			fi }; skip
		fi;
		d_step { settle() }
	}
	od
}

/* ---- The ReplicaSet controller: makes and deletes pods. ---- */

inline syncPods(index) {
	one = set(0, index);
	printf("replicaset controller  ReplicaSet %d: %d pods, were %d\n", index, want(one), have(one));
	assert(want(one) > have(one) || (d[0] & EDITED) || resumed || scaled);   /* I4: no pod deleted */
	newReplicaSet(index, (one & ~setHave(3)) | setHave(want(one)))
}

#define roomForSets (opR < LAG && dcR < LAG)

proctype ReplicaSetController() {
end:
	do
	:: atomic {
		if
		:: d_step { !asWanted(0) && roomForSets -> syncPods(0) }; skip
		:: d_step { !asWanted(1) && roomForSets -> syncPods(1) }; skip
		:: d_step { !asWanted(2) && roomForSets -> syncPods(2) }; skip
		:: d_step { !asWanted(3) && roomForSets -> syncPods(3) }; skip
#if SETS > 4
		:: d_step { !asWanted(4) && roomForSets -> syncPods(4) }; skip
#endif
		fi;
		d_step { settle() }
	}
	od
}

/* ---- What else happens: the user, failures, the clock. Each of it may happen or not. ---- */

#define room (opD < LAG && dcD < LAG)

#ifdef ACTS
proctype User() {
	byte acts = ACTS;
	bit mayEdit = 1, mayPause = 1, mayResume = 1, mayScale = 1;
end:
	do
	:: atomic {
		if
		:: d_step { acts > 0 && mayEdit && room -> mayEdit = 0; acts--;
			printf("user                   changes the template\n");
			newDeployment((d[0] & ~SEEN) | EDITED) }; skip
		:: d_step { acts > 0 && mayPause && room && !(d[0] & USERS) -> mayPause = 0; acts--;
			printf("user                   pauses\n");
			newDeployment((d[0] & ~(paused(d[0]) -> 0 : SEEN)) | USERS) }; skip
		:: d_step { acts > 0 && mayResume && room && paused(d[0]) -> mayResume = 0; acts--; resumed = 1;
			printf("user                   resumes\n");
			newDeployment(d[0] & ~(OURS | USERS | SEEN)) }; skip
		:: d_step { acts > 0 && mayScale && room -> mayScale = 0; acts--;
			printf("user                   scales to 2\n");
			newDeployment((d[0] & ~(ALL_REPLICAS | SEEN)) | setReplicas(2)) }; skip
		:: d_step { acts > 0 && mayScale && room -> mayScale = 0; acts--;
			printf("user                   scales to 0\n");
			newDeployment(d[0] & ~(ALL_REPLICAS | SEEN)) }; skip
		fi;
		d_step { settle() }
	}
	od
}
#endif

proctype Failures() {
	byte crashes = CRASHES, stops = STOPS;
end:
	do
	:: atomic {
		if
		:: d_step { opUp && crashes > 0 -> crashes--; opUp = 0; opD = 0; opR = 0; forgetVersions();
			printf("operator               crashes\n") }; skip
		:: d_step { !opUp -> opUp = 1;
			printf("operator               starts: lists all anew\n") }; skip
		:: d_step { dcUp && stops > 0 -> stops--; dcUp = 0; dcD = 0; dcR = 0; phase = IDLE; forgetVersions();
			printf("deployment controller  stops\n") }; skip
		:: d_step { !dcUp && !dcGone -> dcUp = 1;
			printf("deployment controller  starts: lists all anew\n") }; skip
		:: d_step { !dcUp && !dcGone -> dcGone = 1;
			printf("deployment controller  never comes back\n") }; skip
		fi;
		d_step { settle() }
	}
	od
}

/* Within half of the deadline, whoever runs sees that the ReplicaSet was patched. */
#define sees(up, lag) (!(up) || template(set(lag, intentSet(d[0]))) == template(set(0, intentSet(d[0]))))
#ifdef SLOW
#define allSee true
#else
#define allSee (sees(opUp, opR) && sees(dcUp, dcR))
#endif

proctype Clock() {
end:
	do
	:: atomic {
		if
		:: d_step { (d[0] & INTENT) && !late && (hurries > 0 || settled || !dcUp) ->
			if :: settled || !dcUp :: else -> hurries-- fi;
			late = 1;
			printf("clock                  15 s since the beginning\n") }; skip
		:: d_step { (d[0] & INTENT) && late && !expired && allSee ->
			expired = 1;
			printf("clock                  30 s since the beginning\n") }; skip
		fi;
		d_step { settle() }
	}
	od
}

init {
	atomic {
		d[0] = setReplicas(1) | setUpdated(1) | SEEN;
		set(0, RUNNING) = EXISTS | setWant(1) | setHave(1);
		if :: name[RUNNING] = 0 :: name[RUNNING] = FOREIGN fi;       /* it was promoted before, or not */
		if
		:: set(0, TWIN) = EXISTS | NEW; name[TWIN] = NEW; printf("                       there is a twin, ReplicaSet 0\n")
		:: skip
		fi;
		settle();
		run Operator(); run DeploymentController(); run ReplicaSetController(); run Failures(); run Clock()
#ifdef ACTS
		; run User()
#endif
	}
}
