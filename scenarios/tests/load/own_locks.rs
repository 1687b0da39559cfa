//! `[[lock]]`: locks of a file's own.

use kvmmu_model::lock::Section;
use kvmmu_model::{LockClass, LockKind};
use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::loader::load;
use kvmmu_scenarios::ops::LockRef;

use crate::common::{check, refused};

/// A valid file whose programs take locks of its own, next to KVM's.
const OWN: &str = r#"title = "t"
source = "s"
about = "a"
paging = "direct"
spte = "ept"

[[slot]]
gfn = 0
pages = 1

[[lock]]
name = "a"
type = "mutex"

[[lock]]
name = "dev->rw.sem"
type = "rw_semaphore"

[[lock]]
name = "readers"
type = "srcu"

[[thread]]
name = "host"
run = ["lock a", "read-lock dev->rw.sem", "read-unlock dev->rw.sem", "unlock a"]
more = ["synchronize readers"]

[[thread]]
name = "user"
run = ["lock slots_lock", "lock a", "unlock a", "unlock slots_lock"]

[check]
"#;

fn own() -> Scenario {
    load("dir/my-race.toml", OWN, 1).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn each_own_lock_is_a_class_with_the_name_of_the_file() {
    let scenario = own();
    let infos: Vec<_> = scenario.locks.iter().map(|class| class.info()).collect();
    let said: Vec<_> = infos.iter().map(|i| (i.name, i.short, i.kind, i.section)).collect();
    let section = Section::File("my-race");
    assert_eq!(
        said,
        [
            ("a", "a", LockKind::Mutex, section),
            ("dev->rw.sem", "dev->rw.sem", LockKind::RwSemaphore, section),
            ("readers", "readers", LockKind::Srcu, section),
        ]
    );
    assert_eq!(
        scenario.threads[0].run.to_string(),
        "lock a, read-lock dev->rw.sem, \
        read-unlock dev->rw.sem, unlock a"
    );
    let lock = LockRef { class: scenario.locks[1], index: 1 };
    assert_eq!(lock.to_string(), "dev->rw.sem");
}

#[test]
fn a_file_that_is_read_again_has_the_same_classes_and_another_file_has_others() {
    assert_eq!(own().locks, own().locks);
    let other = load("other.toml", OWN, 1).expect("valid");
    assert!(own().locks.iter().all(|lock| !other.locks.contains(lock)));
}

/// Goal: every type that a lock can have. Method: the operations that fit are accepted, the others
/// are refused where the name is.
#[test]
fn every_type_takes_its_operations() {
    for kind in LockKind::ALL {
        let text = OWN.replacen("\"mutex\"", &format!("\"{}\"", kind.name()), 1);
        let fits = !kind.has_sections();
        match load("my-race.toml", &text, 1) {
            Ok(scenario) => {
                assert!(fits, "{kind:?}");
                assert_eq!(scenario.locks[0].info().kind, kind);
            }
            Err(error) => {
                assert!(!fits, "{error}");
                let a_kind = if kind == LockKind::Rcu { "an RCU domain" } else { "an SRCU" };
                let head = format!("my-race.toml:25:14: 'lock' on 'a', {a_kind}\n  help: readers");
                assert!(error.to_string().starts_with(&head), "{error}");
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_lock_is_said_where_it_is() {
    let ninth: String = (0..8).fold(String::new(), |text, i| {
        text + &format!("[[lock]]\nname = \"l{i}\"\ntype = \"mutex\"\n")
    });
    let ninth = format!("{ninth}[[lock]]\nname = \"readers\"");
    check(
        OWN,
        &[
            ("name = \"a\"\n", "", "11:1: a [[lock]] lacks 'name'", "name = \"my_lock\""),
            ("type = \"mutex\"\n", "", "11:1: a [[lock]] lacks 'type'", "type = \"mutex\""),
            (
                "name = \"a\"\n",
                "name = 7\n",
                "12:8: 'name' is a whole number",
                "it must be a string",
            ),
            (
                "type = \"mutex\"",
                "type = \"mutx\"",
                "13:9: unknown type of lock 'mutx'",
                "did you mean 'mutex'?",
            ),
            (
                "type = \"mutex\"",
                "kind = \"mutex\"",
                "13:1: unknown key of a [[lock]]: 'kind'",
                "legal here: name, type",
            ),
            (
                "[[lock]]\nname = \"a\"\ntype = \"mutex\"\n\n[[lock]]\nname = \"dev->rw.sem\"\n\
                 type = \"rw_semaphore\"\n\n[[lock]]",
                "[lock]",
                "11:1: 'lock' is a table",
                "write [[lock]], not [lock]",
            ),
            ("name = \"a\"", "name = \"\"", "12:9: '' is no name of a lock", "a letter first"),
            (
                "name = \"a\"",
                "name = \"a b\"",
                "12:9: 'a b' is no name of a lock",
                "a letter first",
            ),
            (
                "name = \"a\"",
                "name = \"a[0]\"",
                "12:9: 'a[0]' is no name of a lock",
                "a letter first",
            ),
            ("name = \"a\"", "name = \"1a\"", "12:9: '1a' is no name of a lock", "a letter first"),
            (
                "name = \"a\"",
                "name = \"a23456789012345678901234567890123\"",
                "12:9: 'a23456789012345678901234567890123' is no name of a lock",
                "at most 32 characters",
            ),
            (
                "name = \"a\"",
                "name = \"slots_lock\"",
                "12:9: 'slots_lock' is the name of a lock of KVM or of the host",
                "without a [[lock]]",
            ),
            (
                "name = \"a\"",
                "name = \"kvm->arch.xen.xen_lock\"",
                "12:9: 'kvm->arch.xen.xen_lock' is the name of a lock of KVM or of the host",
                "without a [[lock]]",
            ),
            (
                "name = \"a\"",
                "name = \"vcpu9->mutex\"",
                "12:9: 'vcpu9->mutex' is the name of a lock of KVM or of the host",
                "call a lock of your own something else",
            ),
            ("\"readers\"", "\"a\"", "20:9: a second lock 'a'", "choose another"),
            (
                "[[lock]]\nname = \"readers\"",
                &ninth,
                "38:9: too many locks: 'l6' is number 9",
                "a file may declare 8",
            ),
            (
                "lock a\", \"read-lock",
                "lock b\", \"read-lock",
                "25:14: unknown lock 'b'",
                "did you mean 'a'?",
            ),
            (
                "more = [\"synchronize readers\"]",
                "",
                "20:9: no program takes 'readers'",
                "read-lock readers, read-unlock readers or synchronize readers",
            ),
            (
                "more = [\"synchronize readers\"]",
                "more = [\"synchronize a\"]",
                "26:22: 'synchronize' on 'a', a mutex",
                "only SRCU and RCU have grace periods: readers, srcu",
            ),
            (
                "\"lock a\", \"read-lock",
                "\"read-lock a\", \"read-lock",
                "25:19: 'read-lock' on 'a', a mutex",
                "write lock and unlock",
            ),
            (
                "\"unlock a\"]\nmore",
                "\"unlock a\", \"unlock a\"]\nmore",
                "25:90: 'unlock' of 'a', which is not held here",
                "take it before: lock a",
            ),
        ],
    );
}

#[test]
fn a_lock_that_nothing_takes_is_refused_and_one_of_larger_sizes_is_not() {
    let two = "[[lock]]\nname = \"readers\"";
    let error = refused(OWN, two, &format!("[[lock]]\nname = \"b\"\ntype = \"mutex\"\n{two}"));
    assert_eq!(error.message, "no program takes 'b'");
    assert!(error.hint.starts_with("write lock b and unlock b"), "{error}");
    let late = OWN.replace(
        "[check]",
        "[[thread]]\nname = \"user1\"\nfrom-size = 3\n\
         run = [\"lock b\", \"unlock b\"]\n[check]",
    );
    let late = late.replace(two, &format!("[[lock]]\nname = \"b\"\ntype = \"mutex\"\n{two}"));
    load("my-race.toml", &late, 1).unwrap_or_else(|e| panic!("{e}"));
}

/// Goal: no class of the table is an own lock's. Method: all of them.
#[test]
fn the_table_has_no_own_locks() {
    let declared = |class: &LockClass| matches!(class.info().section, Section::File(_));
    assert!(!LockClass::ALL.iter().any(declared));
    assert!(LockClass::ALL.iter().enumerate().all(|(row, class)| class.row() == row));
    assert_eq!(own().locks[0].row(), LockClass::ALL.len());
}
