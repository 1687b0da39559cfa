//! Goal: what is taken to be known of a variant is what exploring it shows, to the last state.
//! Method: small built-in scenarios, all variants of each in their order and some without guards of
//! what none of them does, and each again by itself.

use kvmmu::lab::known::Known;
use kvmmu::lab::run::{Machine, Simulated};
use kvmmu::lab::search::Search;
use kvmmu::lab::select;
use kvmmu::lab::variant::Variant;
use kvmmu_model::{Guard, GuardSet};

const SMALL: [&str; 4] =
    ["access-track-vs-zap", "hardware-dirty-vs-zap", "host-writable", "notifier-retry"];

#[test]
fn a_guard_that_no_step_asks_for_changes_nothing() {
    let search = Search::default();
    let mut known = 0;
    for name in SMALL {
        let selected = select::scenario(name, 1).expect("it is built in");
        let found = Known::new(&Simulated, None);
        let strange = [Guard::PinHold, Guard::InvlpgFlushes]
            .map(|guard| Variant::of(&selected.scenario, None, GuardSet::EMPTY.with(guard)));
        for variant in select::variants(&selected, &[]).into_iter().chain(strange) {
            let said = found.explore(&variant, &search, &|_| true).expect("no internal error");
            let own = Simulated.explore(&variant, &variant.goal(), &search, &|_| true);
            let own = own.expect("no internal error");
            assert_eq!(format!("{:?}", said.0), format!("{own:?}"), "{}", variant.name());
            if said.1 {
                let reached = variant.without.iter().any(|guard| own.seen.asked.contains(guard));
                assert!(!reached, "{}", variant.name());
                known += 1;
            }
        }
    }
    assert!(known >= 3, "only {known} were known");
}
