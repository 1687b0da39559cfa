//! Programs of locks, and choices.

use kvmmu_model::{Gfn, LockClass};
use kvmmu_scenarios::loader::load;
use kvmmu_scenarios::ops::{Address, LockOp, LockRef, Op, VcpuOp};
use kvmmu_scenarios::program::{OffVcpu, OnVcpu, Program, Step, Steps};

use crate::common::{LOCKS, check, refused};

#[test]
fn programs_of_locks_are_read() {
    let scenario = load("f.toml", LOCKS, 1).unwrap_or_else(|e| panic!("{e}"));
    assert!(scenario.lock_checks && scenario.contends());
    let one = |class| LockRef { class, index: 0 };
    let (slots, srcu) = (one(LockClass::SlotsLock), one(LockClass::KvmSrcu));
    assert_eq!(
        scenario.threads[2].run,
        Program::Other(
            [
                LockOp::Lock(slots),
                LockOp::ReadLock(srcu),
                LockOp::Unlock(slots),
                LockOp::ReadUnlock(srcu),
            ]
            .into_iter()
            .map(OffVcpu::Lock)
            .collect()
        )
    );
    let mutex = LockRef { class: LockClass::VcpuMutex, index: 1 };
    let run = &scenario.threads[0].run;
    let choice = [VcpuOp::Write(Address::Gfn(Gfn(0))), VcpuOp::Read(Address::Gfn(Gfn(1)))];
    let steps = Steps(vec![
        Step::One(OnVcpu::Lock(LockOp::Lock(mutex))),
        Step::OneOf(choice.map(OnVcpu::Vcpu).to_vec()),
        Step::One(OnVcpu::Lock(LockOp::Unlock(mutex))),
    ]);
    assert_eq!(*run, Program::Vcpu(steps));
    assert_eq!(run.len(), 5);
    let numbers: Vec<usize> = run.ops().map(|(number, _)| number).collect();
    assert_eq!(numbers, [0, 2, 3, 4], "the choice is number 1");
    let (number, op) = scenario.threads[1].run.ops().nth(1).expect("a second operation");
    assert_eq!((number, op), (1, Op::Lock(LockOp::Synchronize(one(LockClass::MmuNotifierSrcu)))));
    assert_eq!(scenario.at_stop.len(), 2);
}

#[test]
fn locks_are_no_steps_where_nobody_waits_for_them() {
    let calm = LOCKS
        .replace("\"lock vcpu1->mutex\", ", "")
        .replace(", \"unlock vcpu1->mutex\"", "")
        .replace("\"read-lock mmap_lock\", \"synchronize mmu_notifier_srcu\", ", "")
        .replace("\"read-unlock mmap_lock\"", "\"shrink\"")
        .replace("\"lock kvm->slots_lock\", \"read-lock srcu\", \"unlock slots_lock\", ", "")
        .replace("\"read-unlock kvm->srcu\"", "\"age gfn0\"")
        .replace("\"lock kvm->lock\", \"unlock kvm->lock\"", "\"shrink\"");
    let scenario = load("f.toml", &calm, 1).unwrap_or_else(|e| panic!("{e}"));
    assert!(!scenario.contends(), "a choice alone makes nobody wait");
}

#[test]
fn names_and_modes_of_locks_are_checked() {
    check(
        LOCKS,
        &[
            (
                "lock kvm->slots_lock",
                "lock kvm->slot_lock",
                "22:14: unknown lock 'kvm->slot_lock'",
                "did you mean 'kvm->slots_lock'? Legal here: ",
            ),
            (
                "lock kvm->slots_lock",
                "lock mmulock",
                "22:14: unknown lock 'mmulock'",
                "did you mean 'mmu_lock'? Legal here: ",
            ),
            (
                "lock kvm->slots_lock",
                "lock spinlock",
                "22:14: unknown lock 'spinlock'",
                "egal here: ",
            ),
            (
                "lock kvm->slots_lock",
                "lock vcpu->mutex",
                "22:14: 'vcpu->mutex': there are several",
                "say whose: vcpu0->mutex",
            ),
            (
                "lock kvm->slots_lock",
                "lock vcpu4->mutex",
                "22:14: 'vcpu4->mutex' is out of range",
                "vcpu0 to vcpu3",
            ),
            (
                "lock kvm->slots_lock",
                "lock vcpu01->mutex",
                "22:14: unknown lock 'vcpu01->mutex'",
                "did you mean 'vcpu0->mutex'?",
            ),
            (
                "lock kvm->slots_lock",
                "lock",
                "22:9: 'lock' takes 1 argument, not 0",
                "write it as: lock LOCK",
            ),
            (
                "lock kvm->slots_lock",
                "lock kvm->srcu",
                "22:14: 'lock' on 'kvm->srcu', an SRCU",
                "read-lock and read-unlock",
            ),
            (
                "lock kvm->slots_lock",
                "read-lock kvm->slots_lock",
                "22:19: 'read-lock' on 'kvm->slots_lock', a mutex",
                "write lock and unlock",
            ),
            (
                "lock kvm->slots_lock",
                "read-lock mmu_lock",
                "22:19: 'read-lock' on 'mmu_lock', a spinlock",
                "write lock and unlock",
            ),
            (
                "synchronize mmu_notifier_srcu",
                "synchronize mmap_lock",
                "17:44: 'synchronize' on 'mmap_lock', a read-write lock",
                "only SRCU and RCU have grace periods: srcu, ",
            ),
            (
                "\"unlock vcpu1->mutex\"",
                "\"unlok vcpu1->mutex\"",
                "13:59: unknown operation 'unlok'",
                "did you mean 'unlock'?",
            ),
        ],
    );
}

#[test]
fn only_what_is_held_is_given_back() {
    check(
        LOCKS,
        &[
            (
                "\"lock kvm->slots_lock\", ",
                "",
                "22:34: 'unlock' of 'slots_lock', which is not held here",
                "take it before: lock slots_lock",
            ),
            (
                "\"read-lock srcu\", \"unlock slots_lock\", \"read-unlock kvm->srcu\"",
                "\"read-unlock kvm->srcu\"",
                "22:45: 'read-unlock' of 'kvm->srcu', which is not held here",
                "take it before: read-lock kvm->srcu",
            ),
            (
                "\"unlock slots_lock\", ",
                "\"unlock slots_lock\", \"unlock slots_lock\", ",
                "22:79: 'unlock' of 'slots_lock', which is not held here",
                "take it before",
            ),
            (
                "unlock vcpu1->mutex",
                "unlock vcpu0->mutex",
                "13:66: 'unlock' of 'vcpu0->mutex', which is not held here",
                "take it before",
            ),
            (
                "\"read-unlock mmap_lock\"",
                "\"unlock mmap_lock\"",
                "17:72: 'unlock' of 'mmap_lock', which is not held here",
                "it is held by read-lock: write read-unlock",
            ),
            (
                "\"read-lock mmap_lock\"",
                "\"lock mmap_lock\"",
                "17:72: 'read-unlock' of 'mmap_lock', which is not held here",
                "it is held by lock: write unlock",
            ),
            (
                "more = [[\"age gfn0\", \"shrink\"]]",
                "more = [\"read-unlock mmap_lock\"]",
                "18:22: 'read-unlock' of 'mmap_lock', which is not held here",
                "take it before",
            ),
            (
                "run = [\"lock kvm->lock\", ",
                "run = [",
                "27:16: 'unlock' of 'kvm->lock', which is not held here",
                "take it before",
            ),
        ],
    );
    // What `more` gives back at one size it must take again for the next.
    let text = LOCKS
        .replace(", \"read-unlock mmap_lock\"]", "]")
        .replace("[[\"age gfn0\", \"shrink\"]]", "[\"read-unlock mmap_lock\"]");
    assert!(load("f.toml", &text, 1).is_ok() && load("f.toml", &text, 2).is_ok());
    let error = load("f.toml", &text, 3).expect_err("nothing is held");
    assert_eq!((error.line, error.column), (18, 22), "{error}");
}

#[test]
fn what_the_checker_is_to_find_is_accepted() {
    for (old, new) in [
        ("\"unlock slots_lock\", ", ""),
        ("\"read-lock srcu\", ", "\"lock slots_lock\", \"read-lock srcu\", \"read-lock srcu\", "),
        ("lock vcpu1->mutex", "lock vcpu0->mutex"),
        ("\"lock kvm->lock\", \"unlock kvm->lock\"", "\"lock kvm->lock\""),
    ] {
        let text = LOCKS.replace(old, new);
        assert_ne!(text, LOCKS);
        load("f.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn choices_are_checked() {
    let choice = "[\"write gfn0\", \"read gfn1\"]";
    check(
        LOCKS,
        &[
            (choice, "[]", "13:29: a choice of nothing", "two or more"),
            (choice, "[\"read gfn0\"]", "13:29: a choice of one operation", "without brackets"),
            (
                choice,
                "[\"read gfn0\", [\"read gfn1\", \"write gfn1\"]]",
                "13:43: a choice inside a choice",
                "into one list",
            ),
            (choice, "[\"read gfn0\", 3]", "13:43: 'run' is a whole number", "a string"),
            (choice, "3", "13:29: 'run' is a whole number", "a string"),
            (
                choice,
                "[\"read gfn0\", \"wrte gfn0\"]",
                "13:44: unknown operation 'wrte'",
                "did you mean 'write'?",
            ),
            (
                choice,
                "[\"read gfn0\", \"lock kvm->lock\"]",
                "13:44: 'lock kvm->lock' in a choice",
                "move it out of the brackets",
            ),
            (
                choice,
                "[\"read gfn0\", \"unlock vcpu1->mutex\"]",
                "13:44: 'unlock vcpu1->mutex' in a choice",
                "move it out of the brackets",
            ),
            (
                "more = [[\"age gfn0\", \"shrink\"]]",
                "more = [[\"age gfn0\", \"write gfn0\"]]",
                "18:23: 'write' runs on vCPU threads, and this is a host thread",
                "age",
            ),
            (
                "run = [\"lock kvm->lock\", ",
                "run = [[\"shrink\", \"age gfn0\"], \"lock kvm->lock\", ",
                "27:8: a choice in [at-stop]",
                "nobody chooses",
            ),
        ],
    );
    let synchronize = LOCKS.replace(choice, "[\"read gfn0\", \"synchronize srcu\"]");
    assert!(load("f.toml", &synchronize, 1).is_ok(), "it holds nothing afterwards");
}

#[test]
fn a_program_has_room_for_so_many_alternatives() {
    let choice = |n: usize| format!("[{}]", vec!["\"shrink\""; n].join(", "));
    let with = |more: String| LOCKS.replace("more = [[\"age gfn0\", \"shrink\"]]", &more);
    let text = with(format!("more = [{}, {}]", choice(2), choice(14)));
    assert_eq!(load("f.toml", &text, 3).map(|s| s.threads[1].run.len()), Ok(3 + 2 * 18));
    let error = load("f.toml", &text, 4).expect_err("too many");
    assert_eq!(error.message, "a program of 48 operations to choose from");
    assert_eq!((error.line, error.column), (18, 8));
    let error = refused(
        LOCKS,
        "[\"write gfn0\", \"read gfn1\"]",
        &format!("[{}]", vec!["\"read gfn0\""; 300].join(", ")),
    );
    assert_eq!(error.message, "a program of 300 operations to choose from");
}

#[test]
fn lock_checks_can_be_turned_off() {
    let off = LOCKS.replace("[check]\n", "[check]\nlock-checks = false\n");
    assert!(!load("f.toml", &off, 1).expect("valid").lock_checks);
    let expect = |property: &str| {
        format!(
            "[[expect]]\nwithout = []\nverdict = \"violated\"\nproperty = \"{property}\"\n[at-stop]"
        )
    };
    for property in ["lock-order", "lock-cycle", "lock-usage", "deadlock"] {
        let text = LOCKS.replace("[at-stop]", &expect(property));
        load("f.toml", &text, 1).unwrap_or_else(|e| panic!("{e}"));
    }
    let named = LOCKS.replace("[check]\n", "[check]\nalways = [\"lock-order\"]\n");
    assert!(load("f.toml", &named, 1).is_ok(), "as with deadlock");
    let off = |more: &str| off.replace("lock-checks = false\n", more);
    check(
        LOCKS,
        &[
            (
                "[check]\n",
                "[check]\nlock-check = false\n",
                "25:1: unknown key of [check]: 'lock-check'",
                "'lock-checks'",
            ),
            (
                "[check]\n",
                "[check]\nlock-checks = 0\n",
                "25:15: 'lock-checks' is a whole number",
                "true or",
            ),
            (
                "[check]\n",
                "[check]\nlock-checks = false\nalways = [\"lock-sleep\"]\n",
                "26:12: 'lock-sleep' is not checked",
                "remove lock-checks = false",
            ),
            (
                "[at-stop]",
                &expect("swap"),
                "29:13: 'swap' is not checked",
                "add \"swap\" to 'always'",
            ),
        ],
    );
    let text = off("lock-checks = false\n").replace("[at-stop]", &expect("lock-order"));
    let error = load("f.toml", &text, 1).expect_err("not checked");
    assert_eq!((error.line, error.column), (30, 13), "{error}");
    assert_eq!(error.message, "'lock-order' is not checked");
    // Other violations have a story.
    let text = LOCKS
        .replace("[check]\n", "[check]\nalways = [\"swap\"]\n")
        .replace("[at-stop]", &expect("swap"));
    assert!(load("f.toml", &text, 1).expect_err("no story").message.contains("'story'"));
}
