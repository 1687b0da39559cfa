//! Goal: locks that a scenario file declares are checked as KVM's are, each a class of its own.
//! Method: small files with programs that use them well and badly, in every interleaving, with the
//! checks of lock usage and without.

use kvmmu_sim::outcome::Verdict;

use crate::small::{explore, scenario};

/// One page, these locks and programs of `user` and `user1`.
fn tables(locks: &[(&str, &str)], checks: bool, programs: [&str; 2]) -> String {
    let mut text = String::from("[[slot]]\ngfn = 0\npages = 1\n");
    for (name, kind) in locks {
        text += &format!("[[lock]]\nname = \"{name}\"\ntype = \"{kind}\"\n");
    }
    for (i, program) in programs.iter().enumerate() {
        let ops: Vec<String> = program.split(", ").map(|op| format!("\"{op}\"")).collect();
        text += &format!("[[thread]]\nname = \"user{i}\"\nrun = [{}]\n", ops.join(", "));
    }
    text + &format!("[check]\nlock-checks = {checks}\n")
}

/// What is violated, and how in words; none: it holds.
fn found(
    locks: &[(&str, &str)],
    checks: bool,
    programs: [&str; 2],
) -> Option<(&'static str, String)> {
    let outcome = explore(scenario("direct", "ept", &tables(locks, checks, programs)), &[]);
    match outcome.verdict {
        Verdict::Holds => None,
        Verdict::Violated(found) => Some((found.rule.name(), found.detail)),
        other => panic!("{other:?}"),
    }
}

/// Asserts what is found with lock checks, and the property that is violated without.
#[track_caller]
fn finds(
    locks: &[(&str, &str)],
    programs: [&str; 2],
    on: Option<(&'static str, &str)>,
    off: Option<&'static str>,
) {
    let on = on.map(|(property, detail)| (property, detail.to_owned()));
    assert_eq!(found(locks, true, programs), on);
    assert_eq!(found(locks, false, programs).map(|(property, _)| property), off);
}

/// Takes the first and then the second, and gives them back.
const AB: &str = "lock a, lock b, unlock b, unlock a";
const BA: &str = "lock b, lock a, unlock a, unlock b";

#[test]
fn two_own_locks_of_one_type_are_two_classes() {
    for kind in
        ["mutex", "spinlock_t", "raw_spinlock_t", "rwlock_t", "rw_semaphore", "percpu_rw_semaphore"]
    {
        let locks = [("a", kind), ("b", kind)];
        finds(&locks, [AB, AB], None, None);
        let writing = |name: &str| match kind {
            "rwlock_t" | "rw_semaphore" | "percpu_rw_semaphore" => format!("{name} (for writing)"),
            _ => name.to_owned(),
        };
        let (a, b) = (writing("a"), writing("b"));
        let cycle = format!("{a} is taken inside {b}, {b} is taken inside {a}");
        finds(&locks, [AB, BA], Some(("lock-cycle", &cycle)), Some("deadlock"));
    }
}

#[test]
fn a_cycle_of_own_locks_that_never_deadlocks() {
    let locks = [("a", "mutex"), ("b", "mutex"), ("gate", "mutex")];
    let gated = |inner: &str| format!("lock gate, {inner}, unlock gate");
    let (ab, ba) = (gated(AB), gated(BA));
    let cycle = "a is taken inside b, b is taken inside a";
    finds(&locks, [&ab, &ba], Some(("lock-cycle", cycle)), None);
}

#[test]
fn own_locks_make_cycles_with_those_of_kvm() {
    let inside = "lock slots_lock, lock a, unlock a, unlock slots_lock";
    let outside = "lock a, lock slots_lock, unlock slots_lock, unlock a";
    let locks = [("a", "mutex")];
    finds(&locks, [inside, inside], None, None);
    let cycle = "kvm->slots_lock is taken inside a, a is taken inside kvm->slots_lock";
    finds(&locks, [inside, outside], Some(("lock-cycle", cycle)), Some("deadlock"));
    // By operations that take KVM's locks themselves.
    let outside = "lock a, get-dirty-log slot0, unlock a";
    finds(&locks, [inside, outside], Some(("lock-cycle", cycle)), Some("deadlock"));
    // And inside a leaf.
    let leaf = "lock mmu_lock, lock a, unlock a, unlock mmu_lock";
    let detail = "a inside kvm->mmu_lock, a leaf";
    finds(&[("a", "spinlock_t")], [leaf, leaf], Some(("lock-leaf", detail)), None);
}

#[test]
fn nobody_sleeps_under_a_spinlock_of_the_file() {
    let locks = [("spin", "spinlock_t"), ("a", "mutex")];
    let program = "lock spin, lock a, unlock a, unlock spin";
    finds(&locks, [program, program], Some(("lock-sleep", "a may sleep, and spin is held")), None);
    let locks = [("spin", "raw_spinlock_t"), ("s", "srcu")];
    let program = "lock spin, synchronize s, unlock spin";
    let detail = "a grace period of s may sleep, and spin is held";
    finds(&locks, [program, program], Some(("lock-sleep", detail)), None);
    let locks = [("rw", "rwlock_t"), ("a", "mutex")];
    for (program, how) in [
        ("lock rw, lock a, unlock a, unlock rw", "writing"),
        ("read-lock rw, lock a, unlock a, read-unlock rw", "reading"),
    ] {
        let detail = format!("a may sleep, and rw (for {how}) is held");
        finds(&locks, [program, program], Some(("lock-sleep", &detail)), None);
    }
    // Nor in a read section of RCU, where a mutex outside and a section inside are fine.
    let locks = [("r", "rcu"), ("a", "mutex")];
    let program = "read-lock r, lock a, unlock a, read-unlock r";
    let detail = "a may sleep, and a read section of r is held";
    finds(&locks, [program, program], Some(("lock-sleep", detail)), None);
    let program = "lock a, read-lock r, read-unlock r, synchronize r, unlock a";
    finds(&locks, [program, program], None, None);
    // By an operation of KVM: slots_lock.
    let program = "lock spin, get-dirty-log slot0, unlock spin";
    let detail = "kvm->slots_lock may sleep, and spin is held";
    finds(&[("spin", "spinlock_t")], [program; 2], Some(("lock-sleep", detail)), None);
    // The other way round, and a read section inside, are fine.
    let locks = [("spin", "spinlock_t"), ("a", "mutex"), ("s", "srcu")];
    let program = "lock a, lock spin, read-lock s, read-unlock s, unlock spin, unlock a";
    finds(&locks, [program, program], None, None);
}

#[test]
fn a_thread_waits_for_itself() {
    let twice = "lock a, lock a, unlock a, unlock a";
    let detail = "a inside a: the thread waits for itself";
    finds(&[("a", "mutex")], [twice, twice], Some(("lock-usage", detail)), Some("deadlock"));
    let twice = "read-lock s, synchronize s, read-unlock s";
    let detail = "a grace period of s inside a read section of s: the thread waits for itself";
    finds(&[("s", "srcu")], [twice, twice], Some(("lock-usage", detail)), Some("deadlock"));
    let held = "lock a, lock b, unlock b";
    let detail = "the thread ends and still has a";
    let locks = [("a", "mutex"), ("b", "mutex")];
    finds(&locks, [held, AB], Some(("lock-usage", detail)), Some("deadlock"));
}

#[test]
fn a_reader_again_behind_a_writer() {
    for kind in ["rwlock_t", "rw_semaphore", "percpu_rw_semaphore"] {
        let locks = [("rw", kind)];
        let twice = "read-lock rw, read-lock rw, read-unlock rw, read-unlock rw";
        let detail = "rw (for reading) inside rw (for reading): the thread waits for itself";
        let (reader, writer) = ("read-lock rw, read-unlock rw", "lock rw, unlock rw");
        finds(&locks, [twice, writer], Some(("lock-usage", detail)), Some("deadlock"));
        // Without a writer nothing hangs.
        finds(&locks, [twice, reader], Some(("lock-usage", detail)), None);
        finds(&locks, [reader, writer], None, None);
    }
}

#[test]
fn grace_periods_wait_for_sections_and_sections_for_nothing() {
    let locks = [("s", "srcu"), ("a", "mutex")];
    let section = "read-lock s, lock a, unlock a, read-unlock s";
    let updater = "lock a, synchronize s, unlock a";
    let cycle = "a grace period of s is waited for inside a, a is taken inside a read section of s";
    finds(&locks, [section, updater], Some(("lock-cycle", cycle)), Some("deadlock"));
    let updater = "lock a, unlock a, synchronize s";
    finds(&locks, [section, updater], None, None);
    let nested = "read-lock s, read-lock s, read-unlock s, lock a, unlock a, read-unlock s";
    finds(&locks, [nested, updater], None, None);
}
