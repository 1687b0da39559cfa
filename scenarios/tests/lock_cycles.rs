//! Goal: a cycle of lock orders is told in some execution, even if an earlier one met the same
//! nesting and had something else to tell. Method: acquisitions, asked for one by one.

use kvmmu_model::{Hold, LockClass, Mode};
use kvmmu_scenarios::Property;
use kvmmu_scenarios::lockdep::Lockdep;

const SLOTS_LOCK: Hold = Hold::new(LockClass::SlotsLock, Mode::Exclusive);
const READ_SECTION: Hold = Hold::new(LockClass::KvmSrcu, Mode::Read);
const GRACE_PERIOD: Hold = Hold::new(LockClass::KvmSrcu, Mode::Synchronize);

/// Asks for a lock; what is held is of this thread, the SRCU is always the same one.
fn ask(lockdep: &mut Lockdep, held: &[Hold], wanted: Hold) -> Option<Property> {
    let held = held.iter().map(|hold| (*hold, hold.class == wanted.class));
    lockdep.ask(held, false, wanted).map(|finding| finding.property)
}

#[test]
fn a_cycle_that_a_recursion_closed_first_is_told_later() {
    let mut lockdep = Lockdep::default();
    // A reader takes slots_lock and then waits for himself.
    assert_eq!(ask(&mut lockdep, &[READ_SECTION], SLOTS_LOCK), None);
    let recursion = ask(&mut lockdep, &[READ_SECTION, SLOTS_LOCK], GRACE_PERIOD);
    assert_eq!(recursion, Some(Property::LockUsage));
    // Somebody else waits for readers in slots_lock.
    assert_eq!(ask(&mut lockdep, &[SLOTS_LOCK], GRACE_PERIOD), Some(Property::LockCycle));
}

#[test]
fn the_nesting_that_closes_a_cycle_is_told_whichever_comes_last() {
    let mut lockdep = Lockdep::default();
    assert_eq!(ask(&mut lockdep, &[SLOTS_LOCK], GRACE_PERIOD), None);
    assert_eq!(ask(&mut lockdep, &[READ_SECTION], SLOTS_LOCK), Some(Property::LockCycle));
}
