//! The scenario files that are compiled in: `scenarios/*.toml`, by an explicit list.

macro_rules! files {
    ($($name:literal,)+) => {
        /// File name and text of each built-in scenario, sorted by name.
        pub const FILES: &[(&str, &str)] =
            &[$((concat!($name, ".toml"), include_str!(concat!("../", $name, ".toml"))),)+];
    };
}

files! {
    "aba-direct",
    "aba-indirect",
    "aba-indirect-pinned",
    "aba-indirect-pinned-ksm",
    "access-track-read",
    "access-track-vs-zap",
    "access-track-write",
    "age-vs-fast-fault",
    "canary",
    "change-pte",
    "emulated-store-log",
    "guest-readonly",
    "hardware-dirty-vs-zap",
    "host-writable",
    "host-writable-v6.1",
    "lock-avic-window",
    "lock-bus",
    "lock-create-pit",
    "lock-gup",
    "lock-hardware",
    "lock-hyperv",
    "lock-irq-routing",
    "lock-memslots",
    "lock-order",
    "lock-order-ioctls",
    "lock-order-vcpus",
    "lock-psci",
    "lock-psci-deadlock",
    "lock-slots-irq",
    "lock-tsc",
    "lock-usage-count",
    "lock-usage-count-deadlock",
    "lock-xen",
    "lockless-walk-vs-free",
    "lost-dirty-clear",
    "lost-dirty-update",
    "mark-dirty-order",
    "memslot-flush",
    "mmu-writable",
    "notifier-retry",
    "pte-write",
    "pte-write-upper",
    "pte-write-vs-swap",
    "relax-perms",
    "second-table",
    "shrink-two-tables",
    "stale-tlb-dirty-log",
    "stale-tlb-write-protect",
    "stale-walk-indirect",
}
