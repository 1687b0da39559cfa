//! Goal: the shape of tables is what walks and the loader take it for. Method: a table of two
//! levels, counted and walked by hand.

use kvmmu_model::virt::GFNS;
use kvmmu_model::x86::mmu::paging::{PT_ENTRIES, direct_pages};
use kvmmu_model::x86::mmu::walk::GuestWalk;
use kvmmu_model::{Gfn, Gpte, Gva};

const ROOT: Gfn = Gfn(2);
const LEAF_TABLE: Gfn = Gfn(3);

#[test]
fn a_walk_ends_in_the_table_that_the_upper_entry_names() {
    let upper = |table: Gfn, _| (table == ROOT).then(|| Gpte::new(LEAF_TABLE, true));
    assert_eq!(GuestWalk::leaf_table(ROOT, Gva(1), upper), Some(LEAF_TABLE));
    assert_eq!(GuestWalk::leaf_table(ROOT, Gva(1), |_, _| None), None);
}

#[test]
fn every_frame_has_a_direct_table_and_a_root_above() {
    let (tables, roots) = (GFNS.div_ceil(PT_ENTRIES), GFNS.div_ceil(PT_ENTRIES * PT_ENTRIES));
    assert_eq!(direct_pages(), tables + roots);
}
