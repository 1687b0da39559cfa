//! Three valid files, and what is said of them when they are spoilt.

use kvmmu_scenarios::loader::{LoadError, load};

/// A valid file with direct paging.
pub(crate) const DIRECT: &str = r#"title = "t"
source = "s"
about = "a"
paging = "direct"
spte = "ept"

[host]
pages = 3
"gfn1" = { pfn = 1, writable = false }

[[slot]]
gfn = 0
pages = 3
log = true

[map]
"gfn0" = { pfn = 0, spte = "110" }

[[thread]]
name = "vcpu0"
run = ["write gfn0", "read gfn1"]

[[thread]]
name = "host"
run = ["swap-out gfn0"]

[[thread]]
name = "user"
run = ["get-dirty-log slot0"]

[check]
always = ["migration"]
sometimes = ["mark-dirty < harvest@user"]

[[expect]]
without = []
verdict = "holds"

[[expect]]
without = ["fast-fault-cmpxchg"]
verdict = "violated"
property = "migration"
story = "mark-dirty"

[at-stop]
run = ["get-dirty-log slot0", "copy-harvested"]
"#;

/// A valid file with shadow paging.
pub(crate) const SHADOW: &str = r#"title = "t"
source = "s"
about = "a"
paging = "shadow"
spte = "npt"

[[slot]]
gfn = 0
pages = 6

[guest]
root = "gfn4"
"gfn4" = ["gfn3 w"]
"gfn3" = ["gfn0 w", "gfn1", "-"]

[map]
"gva0" = { pfn = 0, spte = "110" }
"gfn3" = { pfn = 3, spte = "100" }

[[thread]]
name = "vcpu0"
run = ["write gva0", "set-gpte gva2[1] gfn1", "emulate-gpte gfn3[0] gfn1"]

[[thread]]
name = "vcpu1"
paging = "direct"
run = ["prefault gfn0"]

[check]
always = ["swap"]
"#;

/// A valid file with programs of locks, and choices.
pub(crate) const LOCKS: &str = r#"title = "t"
source = "s"
about = "a"
paging = "direct"
spte = "ept"

[[slot]]
gfn = 0
pages = 2

[[thread]]
name = "vcpu0"
run = ["lock vcpu1->mutex", ["write gfn0", "read gfn1"], "unlock vcpu1->mutex"]

[[thread]]
name = "host"
run = ["read-lock mmap_lock", "synchronize mmu_notifier_srcu", "read-unlock mmap_lock"]
more = [["age gfn0", "shrink"]]

[[thread]]
name = "user"
run = ["lock kvm->slots_lock", "read-lock srcu", "unlock slots_lock", "read-unlock kvm->srcu"]

[check]

[at-stop]
run = ["lock kvm->lock", "unlock kvm->lock"]
"#;

/// The error of `base` with its first `old` replaced.
#[track_caller]
pub(crate) fn refused(base: &str, old: &str, new: &str) -> LoadError {
    assert!(base.contains(old), "{old}");
    match load("my-race.toml", &base.replacen(old, new, 1), 1) {
        Err(error) => error,
        Ok(_) => panic!("accepted: {new}"),
    }
}

/// Each case: what is replaced by what, and the head and a part of the hint of the message.
#[track_caller]
pub(crate) fn check(base: &str, cases: &[(&str, &str, &str, &str)]) {
    let mut wrong = String::new();
    for (old, new, head, hint) in cases {
        let text = refused(base, old, new).to_string();
        let wanted = format!("my-race.toml:{head}\n  help: ");
        if !text.starts_with(&wanted) || !text[wanted.len()..].contains(hint) {
            wrong += &format!("{new}\n  wanted {head} ... {hint}\n  said   {text}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
