//! What must be right in a file before anything else of it is read, made right again after a
//! change: without it no change would get behind that first check.

use kvmmu::report::trace::VERSION;
use serde_json::{Value, json};

/// 64-bit FNV-1a, as trace files have it.
fn hash(seed: u64, text: &str) -> u64 {
    text.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A trace of the simulator with the hash of each line, and an end line that fits.
pub fn trace(text: &str) -> String {
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return String::new() };
    let mut sum = hash(0xcbf2_9ce4_8422_2325, first);
    let mut sealed = format!("{first}\n");
    let mut events = 0;
    for line in lines.filter(|line| !line.contains("\"type\":\"end\"")) {
        let Some((body, _)) = line.rsplit_once(",\"hash\":") else { continue };
        sum = hash(sum, &format!("{body}}}"));
        events += 1;
        sealed += &format!("{body},\"hash\":\"{sum:016x}\"}}\n");
    }
    let end = format!(r#"{{"v":{VERSION},"type":"end","events":{events},"hash":"{sum:016x}"}}"#);
    sealed + &end + "\n"
}

/// A recording of the MMU with numbers without a hole, and an end line that fits. Lines that are no
/// objects stay.
pub fn recording(text: &str) -> String {
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return String::new() };
    let mut sealed = format!("{first}\n");
    let mut events = 0;
    for line in lines.filter(|line| !line.contains("\"event\":\"end\"")) {
        match serde_json::from_str(line) {
            Ok(Value::Object(mut event)) if event.contains_key("n") => {
                event.insert("n".to_owned(), json!(events));
                sealed += &Value::Object(event).to_string();
            }
            _ => sealed += line,
        }
        sealed.push('\n');
        events += 1;
    }
    sealed + &format!("{{\"event\":\"end\",\"events\":{events},\"lost\":0}}\n")
}
