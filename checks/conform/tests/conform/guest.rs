//! Goal: where KVM shadows the guest's own tables, what it maps is what they say, and nothing else
//! is explained. Method: a recorded trace, edited at every place of a kind: each edit must be
//! refused, for the reason that it gives; and traces made by hand of guests that map their tables.

use serde_json::{Value, json};

use crate::common::{GFN, PFN, Script, V5_10, judge_text};
use crate::recorded::GUEST_TRACE;
use kvmmu_conform::refused::Kind;

/// The lines of the recorded trace.
fn lines() -> Vec<Value> {
    GUEST_TRACE.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

/// The text of these lines, numbered anew.
fn text(lines: &[Value]) -> String {
    let mut lines = lines.to_vec();
    let events = lines.len() - 2;
    for (n, line) in lines[1..=events].iter_mut().enumerate() {
        line["n"] = json!(n);
    }
    lines[events + 1]["events"] = json!(events);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn hex(line: &Value, field: &str) -> u64 {
    let digits = line[field].as_str().and_then(|text| text.strip_prefix("0x")).expect("a number");
    u64::from_str_radix(digits, 16).expect("it is hexadecimal")
}

fn flip(line: &mut Value, field: &str, bits: u64) {
    line[field] = json!(format!("{:#x}", hex(line, field) ^ bits));
}

/// The events of one fault that maps its own page: from `kvm_page_fault` to `kvm_mmu_set_spte`.
fn faults(lines: &[Value]) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    for begin in (0..lines.len()).filter(|i| lines[*i]["event"] == "kvm_page_fault") {
        let of_thread = |i: &usize| lines[*i]["pid"] == lines[begin]["pid"];
        let mut events = vec![begin];
        for i in (begin + 1..lines.len()).filter(of_thread) {
            events.push(i);
            match lines[i]["event"].as_str() {
                Some("kvm_mmu_set_spte") => {
                    found.push(events);
                    break;
                }
                Some("kvm_page_fault") => break,
                _ => {}
            }
        }
    }
    found
}

/// Makes an edit at each place of each fault where `edit` makes one, and demands that it is
/// refused for a reason that contains `why`. What the set of an SPTE cannot have written may be
/// noticed first by a harvest that comes before the thread's next event: `why` is empty then.
fn refused_everywhere(why: &str, edit: impl Fn(&mut Vec<Value>, &[usize], usize) -> bool) {
    let lines = lines();
    let mut places = 0;
    for fault in faults(&lines) {
        for at in 0..fault.len() {
            let mut edited = lines.clone();
            if !edit(&mut edited, &fault, at) {
                continue;
            }
            places += 1;
            let report = judge_text(&text(&edited)).unwrap_or_else(|failure| panic!("{failure}"));
            let told = report.all.iter().any(|found| found.why.contains(why));
            let line = fault[at] + 1;
            assert!(told, "line {line} '{why}': {}\n{}", lines[fault[at]], report.text());
        }
    }
    assert!(places >= 5, "'{why}' was tried at {places} places only");
}

fn is(lines: &[Value], fault: &[usize], at: usize, event: &str) -> bool {
    lines[fault[at]]["event"] == event
}

fn is_level(lines: &[Value], fault: &[usize], at: usize, level: u64) -> bool {
    is(lines, fault, at, "kvm_mmu_paging_element") && lines[fault[at]]["level"] == level
}

fn is_write(lines: &[Value], fault: &[usize]) -> bool {
    hex(&lines[fault[0]], "error_code") & 2 != 0
}

#[test]
fn a_and_d_of_the_guest_are_set_before_a_page_is_mapped() {
    for (event, why) in [
        ("kvm_mmu_set_accessed_bit", "nobody has set A in the guest's entry of level 1"),
        ("kvm_mmu_set_dirty_bit", "nobody has set D in the guest's entry of level 1"),
    ] {
        refused_everywhere(why, |lines, fault, at| {
            let here = is(lines, fault, at, event);
            if here {
                lines.remove(fault[at]);
            }
            here
        });
    }
}

#[test]
fn what_is_mapped_is_what_the_guest_maps() {
    refused_everywhere("the guest's tables map frame", |lines, fault, at| {
        let here = is_level(lines, fault, at, 1);
        if here {
            flip(&mut lines[fault[at]], "pte", 1 << 12);
        }
        here
    });
    refused_everywhere("the guest's tables map frame", |lines, fault, at| {
        let here = is(lines, fault, at, "kvm_mmu_set_spte");
        if here {
            flip(&mut lines[fault[at]], "gfn", 1);
        }
        // A large page of the guest is split: the place of a frame is known.
        here && fault.iter().any(|i| lines[*i]["level"] == 1 && lines[*i]["pte"].is_string())
    });
}

#[test]
fn w_is_what_the_guest_allows() {
    refused_everywhere("", |lines, fault, at| {
        let here = is_level(lines, fault, at, 1) && is_write(lines, fault);
        if here {
            flip(&mut lines[fault[at]], "pte", 1 << 1);
        }
        here
    });
    refused_everywhere("", |lines, fault, at| {
        let here = is(lines, fault, at, "kvm_mmu_set_spte") && is_write(lines, fault);
        if here {
            flip(&mut lines[fault[at]], "spte", 1 << 1 | 1 << 11);
        }
        here
    });
}

#[test]
fn a_walk_goes_down_level_by_level() {
    refused_everywhere("the walk goes from level 4 to level 2", |lines, fault, at| {
        let here = is_level(lines, fault, at, 3);
        if here {
            lines.remove(fault[at]);
        }
        here
    });
    refused_everywhere("no walk of the guest's tables found", |lines, fault, at| {
        let here = is(lines, fault, at, "kvm_mmu_pagetable_walk");
        if here {
            flip(&mut lines[fault[at]], "addr", 1 << 12);
        }
        here
    });
}

#[test]
fn a_table_shadows_the_one_that_the_guest_names() {
    refused_everywhere("its table shadows the guest's table", |lines, fault, at| {
        let linked = fault.iter().any(|i| lines[*i]["event"] == "kvm_mmu_get_page");
        let here = is_level(lines, fault, at, 2) && !linked;
        let large = here && hex(&lines[fault[at]], "pte") & 1 << 7 != 0;
        if here && !large {
            flip(&mut lines[fault[at]], "pte", 1 << 20);
        }
        here && !large
    });
    let mut edited = lines();
    let new = |line: &Value| line["event"] == "kvm_mmu_get_page" && line["role"] == "0x2712";
    let at = edited.iter().position(new).expect("the shadow of a level 2 table");
    flip(&mut edited[at], "gfn", 1);
    let report = judge_text(&text(&edited)).expect("it is judged");
    let why = &report.first.expect("it is refused").why;
    assert_eq!(why, "the walk asks for a page of this level that shadows frame 0x3");
}

#[test]
fn hardware_finds_nothing_present_only_where_nothing_was() {
    refused_everywhere("hardware found nothing present", |lines, fault, at| {
        let here = at == 0 && hex(&lines[fault[at]], "error_code") & 1 != 0;
        if here {
            flip(&mut lines[fault[at]], "error_code", 1);
        }
        here
    });
}

/// The guest's tables: the root is elsewhere, then these; the last maps [`GFN`].
const TABLES: [u64; 3] = [0x11, 0x12, 0x13];
/// Where the SPTEs of the last one are.
const SHADOW: u64 = 0x6f000;
/// Of four-level paging: not direct, everything allowed.
const ROLE: u32 = 0x2710;

/// A guest that maps its frames one to one.
fn guest() -> Script {
    let mut script = Script::new(V5_10);
    script.paging = "guest";
    script
}

/// A fault of frame `gfn`, with the walk that finds it.
fn walked(script: &mut Script, gfn: u64, error: u64) {
    script.fault(0, gfn, error);
    let address = gfn << 12;
    script.event(0, "kvm_mmu_pagetable_walk", &format!(r#""addr":"{address:#x}","pferr":"0x6""#));
    let entries = [(4, TABLES[0]), (3, TABLES[1]), (2, TABLES[2]), (1, gfn)];
    for (level, frame) in entries {
        let pte = frame << 12 | 0x67;
        let fields = format!(r#""pte":"{pte:#x}","level":{level}"#);
        script.event(0, "kvm_mmu_paging_element", &fields);
    }
}

/// The shadow of a table of the guest's.
fn shadow(script: &mut Script, event: &str, level: u32) {
    let (gfn, role) = (TABLES[3 - level as usize], ROLE | level);
    let created = if event == "kvm_mmu_get_page" { r#","created":1"# } else { "" };
    let fields = format!(r#""mmu_valid_gen":0,"gfn":"{gfn:#x}","role":"{role:#x}"{created}"#);
    script.event(0, event, &fields);
}

fn set(script: &mut Script, gfn: u64, letters: &str) {
    let spte = V5_10.spte(PFN + gfn, letters);
    let sptep = SHADOW + (gfn & 511) * 8;
    let fields = format!(r#""gfn":"{gfn:#x}","level":1,"sptep":"{sptep:#x}","spte":"{spte:#x}""#);
    script.event(0, "kvm_mmu_set_spte", &fields);
}

/// The guest's tables are shadowed, and one frame is mapped.
fn shadowed() -> Script {
    let mut script = guest();
    walked(&mut script, GFN, 6);
    for level in [3, 2, 1] {
        shadow(&mut script, "kvm_mmu_get_page", level);
    }
    set(&mut script, GFN, "HMWAD");
    script
}

#[test]
fn tables_of_the_guest_are_write_protected() {
    for table in TABLES {
        let mut script = shadowed();
        script.is_explained();
        walked(&mut script, table, 6);
        let mut writable = script.clone();
        set(&mut script, table, "HA");
        script.is_explained();
        set(&mut writable, table, "HMWAD");
        let line = writable.lines.len() as u32;
        writable.is_refused(line, "the frame is a table of the guest");
    }
}

#[test]
fn the_last_table_may_be_out_of_sync_and_is_not_followed_then() {
    let mut script = shadowed();
    walked(&mut script, TABLES[2], 6);
    shadow(&mut script, "kvm_mmu_unsync_page", 1);
    set(&mut script, TABLES[2], "HMWAD");
    script.is_explained();
    let report = script.judge();
    let told = |line: &String| line.starts_with("SPTEs in shadows of the guest's tables");
    assert!(report.not_checked.iter().any(told), "{}", report.text());

    let mut twice = script.clone();
    shadow(&mut twice, "kvm_mmu_unsync_page", 1);
    twice.is_refused(twice.lines.len() as u32, "it is out of sync already");
    shadow(&mut script, "kvm_mmu_sync_page", 1);
    script.is_explained();
    shadow(&mut script, "kvm_mmu_sync_page", 1);
    script.is_refused(script.lines.len() as u32, "it is not out of sync");

    let mut upper = shadowed();
    shadow(&mut upper, "kvm_mmu_unsync_page", 2);
    upper.is_refused(upper.lines.len() as u32, "only the shadow of a guest's last-level table");
}

#[test]
fn guests_that_are_not_followed_are_foreign() {
    let foreign = |script: &Script, why: &str| {
        let refused = judge_text(&script.text()).expect_err("it is not judged");
        assert_eq!(refused.kind, Kind::Foreign);
        assert!(refused.message.contains(why), "{refused}");
    };
    let mut script = shadowed();
    let (off, on) = (V5_10.spte(PFN + GFN, "HMAD"), V5_10.spte(PFN + GFN, "HMWAD"));
    script.fast_fault(0, GFN, "fixed", off, on);
    foreign(&script, "paging was off for a time");
    let mut small = guest();
    small.fault(0, GFN, 6).event(0, "kvm_mmu_pagetable_walk", r#""addr":"0x205000","pferr":"0x6""#);
    small.event(0, "kvm_mmu_paging_element", r#""pte":"0x13067","level":2"#);
    foreign(&small, "have 2 levels");
}

/// An entry of the last level, and the SPTE of it.
fn leaf(pte: u64, spte: u64) -> Script {
    let mut script = guest();
    walked(&mut script, GFN, 6);
    let last = script.lines.len() - 1;
    let full = GFN << 12 | 0x67;
    script.lines[last] = script.lines[last].replace(&format!("{full:#x}"), &format!("{pte:#x}"));
    for level in [3, 2, 1] {
        shadow(&mut script, "kvm_mmu_get_page", level);
    }
    let sptep = SHADOW + (GFN & 511) * 8;
    let fields = format!(r#""gfn":"{GFN:#x}","level":1,"sptep":"{sptep:#x}","spte":"{spte:#x}""#);
    script.event(0, "kvm_mmu_set_spte", &fields);
    script
}

#[test]
fn u_and_nx_are_those_of_the_guest() {
    let (pte, spte) = (GFN << 12 | 0x67, V5_10.spte(PFN, "HMWAD"));
    let (u, nx) = (1 << 2, 1 << 63);
    leaf(pte, spte).is_explained();
    leaf(pte & !u, spte & !u).is_explained();
    leaf(pte | nx, spte | nx).is_explained();
    for (pte, spte, why) in [
        (pte & !u, spte, "U is not what"),
        (pte, spte & !u, "U is not what"),
        (pte | nx, spte, "NX is not what"),
        (pte, spte | nx, "NX is not what"),
    ] {
        let script = leaf(pte, spte);
        script.is_refused(script.lines.len() as u32, why);
    }
}

#[test]
fn a_large_page_of_the_host_begins_where_it_does() {
    let mut script = guest();
    script.fault(0, 0x205, 6);
    script.event(0, "kvm_mmu_pagetable_walk", r#""addr":"0x205000","pferr":"0x6""#);
    for (level, pte) in [(4, 0x11067), (3, 0x12067), (2, 0x2000e7)] {
        let fields = format!(r#""pte":"{pte:#x}","level":{level}"#);
        script.event(0, "kvm_mmu_paging_element", &fields);
    }
    shadow(&mut script, "kvm_mmu_get_page", 3);
    shadow(&mut script, "kvm_mmu_get_page", 2);
    let spte = V5_10.spte(0x40000, "HMWAD") | 1 << 7;
    let fields = format!(r#""gfn":"0x200","level":2,"sptep":"{SHADOW:#x}","spte":"{spte:#x}""#);
    let fields = fields.replace(&format!("{SHADOW:#x}"), &format!("{:#x}", SHADOW + 8));
    script.event(0, "kvm_mmu_set_spte", &fields);
    script.is_explained();
}

#[test]
fn neighbours_that_the_guest_cannot_write_are_mapped_though_the_slot_is_logged() {
    let mut script = shadowed();
    let mut writable = script.clone();
    set(&mut script, GFN + 1, "H");
    script.is_explained();
    set(&mut writable, GFN + 1, "HMWD");
    writable.is_refused(writable.lines.len() as u32, "no fault of its thread asks for it");
}

#[test]
fn without_walks_what_is_mapped_is_believed() {
    let mut script = shadowed();
    script.lines.retain(|l| !l.contains("pagetable_walk") && !l.contains("paging_element"));
    script.is_explained();
    let report = script.judge();
    let told = |line: &String| line.ends_with("no kvm_mmu_paging_element");
    assert!(report.not_checked.iter().any(told), "{}", report.text());
}

#[test]
fn bits_are_set_in_entries_that_the_walk_has_read_and_once() {
    refused_everywhere("the walk has read no entry", |lines, fault, at| {
        let here = is(lines, fault, at, "kvm_mmu_set_dirty_bit");
        if here {
            flip(&mut lines[fault[at]], "gpa", 8);
        }
        here
    });
    refused_everywhere("is set in the entry of level 1 already", |lines, fault, at| {
        let here = is(lines, fault, at, "kvm_mmu_set_accessed_bit");
        if here {
            lines.insert(fault[at], lines[fault[at]].clone());
        }
        here
    });
}
