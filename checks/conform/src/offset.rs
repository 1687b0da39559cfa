//! Where the kernel's linear map begins.
//!
//! `fast_page_fault` names an SPTE by its virtual address and `kvm_mmu_set_spte` by its physical
//! one. Their difference is one constant of a running kernel; it is found by the frames that both
//! name.

use std::collections::HashMap;

use crate::event::{Event, What};
use crate::place::Place;
use crate::rules::Rules;

/// The difference, or why there is none.
///
/// # Errors
///
/// Addresses that no constant connects: those of a kernel that hides them.
pub fn infer(events: &[Event], rules: &Rules) -> Result<u64, String> {
    let mut tables: HashMap<(u8, u64), u64> = HashMap::new();
    let mut votes: HashMap<u64, usize> = HashMap::new();
    let mut asked = 0;
    for event in events {
        match &event.what {
            What::SetSpte(set) => {
                let place = Place::of(set.level, set.gfn);
                tables.insert((place.level, place.base), set.sptep & !0xfff);
            }
            What::FastFault(fault) if rules.is_leaf(fault.old) => {
                let place = Place::of(rules.level(fault.old), fault.address >> 12);
                if let Some(table) = tables.get(&(place.level, place.base)) {
                    asked += 1;
                    *votes.entry((fault.sptep & !0xfff).wrapping_sub(*table)).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    let best = votes.into_iter().max_by_key(|(offset, count)| (*count, *offset));
    match best {
        None => Ok(0),
        Some((offset, count)) if asked < 8 || count * 2 > asked => Ok(offset),
        Some((_, count)) => Err(format!(
            "the addresses of SPTEs in fast_page_fault and kvm_mmu_set_spte do not fit: at most \
             {count} of {asked} differ by the same constant"
        )),
    }
}
