//! Goal: a trace that contradicts itself is refused before anything is judged, with the line and
//! the name of a field. Method: recorded traces in which one field is changed to what cannot be.

use kvmmu_conform::refused::Kind;
use serde_json::{Value, json};

use crate::common::judge_text;
use crate::recorded::TRACES;

/// Lines of a recorded trace: of 5.10, whose faults name no vCPU, or of 6.1.
fn lines(trace: usize) -> Vec<Value> {
    TRACES[trace].1.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The line number of the `nth` event of this name.
fn nth(lines: &[Value], event: &str, nth: usize) -> usize {
    let mut found = (0..lines.len()).filter(|i| lines[*i]["event"] == event);
    found.nth(nth).unwrap_or_else(|| panic!("no {event}"))
}

#[track_caller]
fn refused(lines: &[Value], line: usize, message: &str) {
    let failure = judge_text(&text(lines)).expect_err(&format!("it is refused: {message}"));
    assert_eq!(failure.kind, Kind::Bad, "{failure}");
    let place = format!("trace.jsonl:{}: ", line + 1);
    let said = failure.to_string();
    assert!(said.contains(&place) && said.contains(message), "no '{place}{message}': {said}");
    assert!(!failure.help.is_empty());
}

/// The header of a trace with one value changed.
#[track_caller]
fn header(pointer: &str, value: Value, message: &str) {
    let mut lines = lines(0);
    *lines[0].pointer_mut(pointer).expect("the header has it") = value;
    refused(&lines, 0, message);
}

/// A field of the first event of its kind is changed, in a trace of 6.1.
#[track_caller]
fn field(event: &str, name: &str, value: Value, message: &str) {
    let mut lines = lines(3);
    let at = nth(&lines, event, 0);
    lines[at][name] = value;
    refused(&lines, at, message);
}

#[test]
fn a_header_has_no_value_that_no_machine_has() {
    header("/vcpus", json!(0), "header: \"vcpus\" is 0, not from 1");
    header("/vcpus", json!(4_000_000), "\"vcpus\" is 4000000");
    header("/vcpus", json!(-3), "header: \"vcpus\": invalid value");
    header("/mode/npt", json!(7), "\"mode.npt\" is 7, not 0 or 1");
    header("/mode/npt", Value::Null, "\"mode.npt\" is missing");
    header("/mode/tdp_mmu", json!(2), "\"mode.tdp_mmu\" is 2, not 0 or 1");
    header("/release", json!("6.1.0-50-cloud-amd64"), "\"release\" is '6.1.0-50-cloud-amd64'");
    header("/slots/1/pages", json!(u64::MAX), "\"slots[1].pages\" is 18446744073709551615");
    header("/slots/1/pages", json!(0), "\"slots[1].pages\" is 0");
    header("/slots/1/base_gfn", json!("0xffffffffff"), "\"slots[1].base_gfn\" is 0xffffffffff");
    header("/slots/1/base_gfn", json!("0x1ff"), "\"slots[1].base_gfn\" is 0x1ff: slot 0 has");
    header("/slots/1/base_gfn", json!(-1), "\"slots[1].base_gfn\": invalid type");
    header("/slots/1/base_gfn", json!("+7"), "\"slots[1].base_gfn\": invalid value");
    header("/slots/1/slot", json!(0), "\"slots[1].slot\" is 0, as that of another one");
    header("/slots/1/slot", json!(70_000), "\"slots[1].slot\" is 70000");
    header("/slots/1/hva", json!("0x7fbe462f7010"), "\"slots[1].hva\" is 0x7fbe462f7010, where");
    header("/slots/1/hva", json!("0xfffffffffffff000"), "\"slots[1].hva\" is 0xfffffffffffff000");
}

#[test]
fn no_field_is_given_twice() {
    let twice = |from: &str, to: &str, message: &str| {
        let text = TRACES[0].1.replacen(from, to, 1);
        let said = judge_text(&text).expect_err("it is refused").to_string();
        assert!(said.contains(message), "{said}");
    };
    twice(
        "\"vcpus\":3",
        "\"vcpus\":3,\"vcpus\":1",
        "trace.jsonl:1: header: duplicate field `vcpus`",
    );
    twice("\"n\":5", "\"n\":5,\"n\":5", "trace.jsonl:7: not an event: duplicate field `n`");
}

#[test]
fn a_hole_in_the_numbers_is_a_lost_event() {
    for lost in [1, 5] {
        let mut lines = lines(0);
        let end = lines.len() - 1;
        lines.drain(100..100 + lost);
        lines[end - lost]["events"] = json!(end - 1 - lost);
        let after = 99 + lost;
        refused(&lines, 100, &format!("\"n\" is {after} after 98: {lost} events were lost"));
    }
    let mut lines = lines(0);
    let end = lines.len() - 1;
    lines.drain(1..3);
    lines[end - 2]["events"] = json!(end - 3);
    refused(&lines, 1, "\"n\" begins at 2: 2 events were lost");
}

#[test]
fn numbers_and_threads_are_given_for_all_events_or_for_none() {
    let without = |name: &str, message: &str| {
        let mut lines = lines(0);
        lines[50].as_object_mut().expect("it is an object").remove(name);
        refused(&lines, 50, message);
        // All without: that is no contradiction.
        if name == "n" {
            let events = lines.len() - 1;
            for line in &mut lines[1..events] {
                line.as_object_mut().expect("it is an object").remove(name);
            }
            judge_text(&text(&lines)).expect("numbers are optional");
        }
    };
    without("n", "\"n\" is missing, but other events have it");
    without("pid", "\"pid\" is missing, but other events have one");
}

#[test]
fn a_vcpu_is_one_of_the_header_and_has_one_thread() {
    for (trace, event) in [(0, "fast_page_fault"), (3, "fast_page_fault"), (3, "kvm_page_fault")] {
        let mut lines = lines(trace);
        let at = nth(&lines, event, 8);
        let vcpu = lines[at]["vcpu_id"].as_u64().expect("it has one");
        lines[at]["vcpu_id"] = json!(3);
        refused(&lines, at, "\"vcpu_id\" is 3, but \"vcpus\" of the header is 3");
        let other = (vcpu + 1) % 3;
        lines[at]["vcpu_id"] = json!(other);
        refused(&lines, at, &format!("\"vcpu_id\" is {other}, but \"pid\" "));
    }
    // The first event of a thread, in the name of another's vCPU.
    let mut lines = lines(3);
    let [first, second] = [0, 1].map(|vcpu| {
        let is = |i: &usize| lines[*i]["vcpu_id"] == vcpu;
        (1..lines.len()).find(is).expect("it has a fault")
    });
    let later = first.max(second);
    lines[later]["vcpu_id"] = lines[first.min(second)]["vcpu_id"].clone();
    refused(&lines, later, "\"vcpu_id\" is ");
}

#[test]
fn an_event_has_no_value_that_no_machine_has() {
    let set = "kvm_mmu_set_spte";
    field(set, "gfn", json!("0x10000000000"), "\"gfn\" is 0x10000000000");
    field(set, "gfn", json!(-1), "not an event: \"gfn\": invalid type");
    field(set, "level", json!(0), "\"level\" is 0x0, not from 1 to 0x3");
    field(set, "level", json!(4), "\"level\" is 0x4");
    field(set, "sptep", json!("0x40665a1"), "\"sptep\" is 0x40665a1, which is no place");
    field(set, "pid", json!(4_194_305), "\"pid\" is 0x400001");
    field(set, "cpu", json!(8192), "\"cpu\" is 0x2000");
    let fast = "fast_page_fault";
    field(fast, "cr2_or_gpa", json!("0x10000000000000"), "\"cr2_or_gpa\" is 0x10000000000000");
    field(fast, "error_code", json!("0x1007"), "\"error_code\" is 0x1007: no fault has 0x1000");
    field(fast, "sptep", json!("0xffff9fa9840be4f1"), "\"sptep\" is 0xffff9fa9840be4f1");
    let fault = "kvm_page_fault";
    field(
        fault,
        "fault_address",
        json!("0x10000000000000"),
        "\"fault_address\" is 0x1000000000000",
    );
    let page = "kvm_mmu_get_page";
    field(page, "gfn", json!("0xfffffffffffff"), "\"gfn\" is 0xfffffffffffff");
    field(page, "role", json!("0x100003785"), "\"role\" is 0x100003785");
    field(page, "role", json!("0x3780"), "\"role\" is 0x3780: no page is of level 0");
    field(page, "role", json!("0x3701"), "\"role\" is 0x3701, a shadow of a guest's table");
    field(page, "created", json!(2), "\"created\" is 0x2");
    field(page, "mmu_valid_gen", json!(256), "\"mmu_valid_gen\" is 0x100");
    field(page, "mmu_valid_gen", Value::Null, "without \"mmu_valid_gen\"");
    field("kvm_mmu_zap_all_fast", "mmu_valid_gen", json!(2), "\"mmu_valid_gen\" is 0x2");
    let unmap = "kvm_unmap_hva_range";
    field(
        unmap,
        "start",
        json!("0x7f2ea1ba7000"),
        "\"end\" is 0x7f2ea1ba7000, not after \"start\"",
    );
    field(unmap, "start", json!("0x8000000000000000"), "\"start\" is 0x8000000000000000");
}

#[test]
fn what_became_of_a_fast_fault_is_said_in_one_way() {
    let fast = "fast_page_fault";
    let mut lines = lines(3);
    let at = nth(&lines, fast, 0);
    assert_eq!(lines[at]["ret"], 4, "the first one is fixed");
    lines[at]["fixed"] = json!(1);
    refused(&lines, at, "\"fixed\" without \"spurious\"");
    lines[at]["spurious"] = json!(1);
    refused(&lines, at, "\"fixed\" and \"spurious\" are both 1");
    lines[at]["fixed"] = json!(0);
    refused(&lines, at, "\"ret\" says fixed, but");
    lines[at]["fixed"] = json!(2);
    refused(&lines, at, "\"fixed\" is 0x2");
    lines[at]["ret"] = json!(i64::MIN);
    lines[at]["fixed"] = json!(0);
    refused(&lines, at, "with ret -9223372036854775808, which no fast fault returns");
    lines[at]["ret"] = json!(4);
    (lines[at]["fixed"], lines[at]["spurious"]) = (json!(1), json!(0));
    judge_text(&text(&lines)).expect("they agree");
}

#[test]
fn a_call_is_about_a_slot_that_there_is_and_ends_as_it_began() {
    let call = |op: &str, phase: &str, change: &dyn Fn(&mut Value), message: &str| {
        let mut lines = lines(3);
        let is = |l: &Value| l["op"] == op && l["phase"] == phase;
        let at = lines.iter().position(is).unwrap_or_else(|| panic!("no {op}"));
        change(&mut lines[at]);
        refused(&lines, at, message);
    };
    let put = |name: &'static str, value: Value| move |line: &mut Value| line[name] = value.clone();
    let (get, set) = ("get-dirty-log", "set-memslot");
    call(get, "enter", &put("slot", json!(7)), "\"slot\" is 7, but the header has no such slot");
    call(get, "enter", &put("slot", json!(65_537)), "\"slot\" is 0x10001");
    call(get, "exit", &put("slot", json!(0)), "\"slot\" is 0, but 1 where the call began");
    call(get, "exit", &put("dirty", json!(8193)), "\"dirty\" is 8193, but slot 1 has 8192 pages");
    call(get, "exit", &put("phase", Value::Null), "a user event without \"phase\"");
    call(set, "exit", &put("pages", json!(17)), "\"pages\" is 17, but 16 where the call began");
    call(set, "enter", &put("pages", json!(1u64 << 31)), "\"pages\" is 0x80000000");
    call(set, "enter", &put("pages", Value::Null), "a first frame without \"pages\"");
    call(set, "enter", &put("first_gfn", json!(1)), "\"first_gfn\" is 0x1, but \"base_gfn\" is ");
    call(set, "enter", &put("base_gfn", json!((1u64 << 40) - 3)), "\"pages\" is 16: from 0x");
}

#[test]
fn fields_of_events_that_nobody_knows_are_nobodys_business() {
    let mut lines = lines(0);
    let end = lines.len() - 1;
    let other = json!({"n": end - 1, "cpu": 0, "pid": 1, "event": "of_another_subsystem",
        "level": "high", "gfn": -1, "vcpu_id": 77});
    lines.insert(end, other);
    lines[end + 1]["events"] = json!(end);
    judge_text(&text(&lines)).expect("it is passed over");
}

#[test]
fn traces_of_machines_without_the_parameters_are_foreign_and_not_broken() {
    let mut lines = lines(0);
    lines[0]["mode"] = json!({"npt": null, "tdp_mmu": null, "paging": "direct"});
    lines[0]["format"] = json!("ept");
    let failure = judge_text(&text(&lines)).expect_err("it is refused");
    assert_eq!(failure.kind, Kind::Foreign, "{failure}");
}
