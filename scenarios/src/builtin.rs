//! The scenario files that are compiled in, by an explicit list: those below `scenarios/races/` and
//! `scenarios/locks/`, by subject, and `canary.toml`. Names are unique, and do not name the folder.

macro_rules! files {
    ($($name:literal in $folder:literal,)+) => {
        /// File name and text of each built-in scenario, sorted by name.
        pub const FILES: &[(&str, &str)] = &[$((
            concat!($name, ".toml"),
            include_str!(concat!("../", $folder, "/", $name, ".toml")),
        ),)+];
    };
}

files! {
    "aba-direct" in "races/aba",
    "aba-indirect" in "races/aba",
    "aba-indirect-pinned" in "races/aba",
    "aba-indirect-pinned-ksm" in "races/aba",
    "access-track-read" in "races/accessed",
    "access-track-vs-zap" in "races/accessed",
    "access-track-write" in "races/accessed",
    "age-vs-fast-fault" in "races/accessed",
    "canary" in ".",
    "change-pte" in "races/notifier",
    "dirty-word" in "races/dirty-log",
    "emulated-store-log" in "races/dirty-log",
    "guest-readonly" in "races/guest-tables",
    "hardware-dirty-vs-zap" in "races/dirty-log",
    "harvest-after-age" in "races/dirty-log",
    "host-writable" in "races/notifier",
    "host-writable-v6.1" in "races/notifier",
    "hypercall-page-log" in "races/dirty-log",
    "lock-avic-window" in "locks",
    "lock-bus" in "locks",
    "lock-create-pit" in "locks",
    "lock-gup" in "locks",
    "lock-hardware" in "locks",
    "lock-hyperv" in "locks",
    "lock-irq-routing" in "locks",
    "lock-memslots" in "locks",
    "lock-order" in "locks",
    "lock-order-ioctls" in "locks",
    "lock-order-vcpus" in "locks",
    "lock-psci" in "locks",
    "lock-psci-deadlock" in "locks",
    "lock-slots-irq" in "locks",
    "lock-tsc" in "locks",
    "lock-usage-count" in "locks",
    "lock-usage-count-deadlock" in "locks",
    "lock-xen" in "locks",
    "lockless-walk-vs-free" in "races/shadow-pages",
    "lost-dirty-clear" in "races/dirty-log",
    "lost-dirty-update" in "races/dirty-log",
    "mark-dirty-order" in "races/dirty-log",
    "memslot-flush" in "races/tlb",
    "mmu-writable" in "races/guest-tables",
    "notifier-retry" in "races/notifier",
    "pte-write" in "races/guest-tables",
    "pte-write-upper" in "races/guest-tables",
    "pte-write-vs-swap" in "races/guest-tables",
    "relax-perms" in "races/tlb",
    "second-table" in "races/aba",
    "shrink-two-tables" in "races/shadow-pages",
    "stale-tlb-dirty-log" in "races/tlb",
    "stale-tlb-write-protect" in "races/tlb",
    "stale-walk-indirect" in "races/aba",
}
