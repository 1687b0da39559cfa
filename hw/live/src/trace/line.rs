//! The lines of a trace file: JSON, one object a line.
//!
//! Addresses and SPTEs are strings of hexadecimal digits, since JavaScript and others lose bits of
//! numbers beyond 2^53; small integers are numbers.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::fields::{Field, Format};
use super::pages::Record;

/// Fields of up to 4 bytes that are sets of bits: hexadecimal, too.
const BIT_SETS: &[&str] = &["error_code", "pferr", "role", "access"];
/// The event that trace_marker makes.
const PRINT: &str = "print";

/// The first line.
#[derive(serde::Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The version of the file's form: 1.
    #[serde(rename = "kvmmu-trace")]
    pub version: u32,
    /// The kernel's version.
    pub kernel: String,
    /// What `uname -r` says.
    pub release: String,
    /// The architecture.
    pub arch: &'static str,
    /// The layout of SPTEs.
    pub format: String,
    /// The module parameters that decide which MMU runs, and the guest's paging.
    pub mode: Mode,
    /// How many vCPUs.
    pub vcpus: usize,
    /// The memslots at the beginning.
    pub slots: Vec<SlotLine>,
    /// What the guest's order of stores depends on.
    pub seed: u32,
    /// Of which the order is: the trace clock.
    pub clock: &'static str,
}

/// Which MMU runs.
#[derive(serde::Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Mode {
    /// Nested (or extended) paging is on.
    pub npt: Option<u8>,
    /// The TDP MMU is on.
    pub tdp_mmu: Option<u8>,
    /// `direct`: two-dimensional paging; `none`: shadow paging, the guest's paging is off;
    /// `guest`: shadow paging of the guest's tables.
    pub paging: &'static str,
}

/// A memslot.
#[derive(serde::Serialize, Clone, PartialEq, Eq, Debug)]
pub struct SlotLine {
    /// Its number.
    pub slot: u32,
    /// Its first frame.
    pub base_gfn: String,
    /// How many.
    pub pages: usize,
    /// Where user space has it: what the kernel's unmap events name.
    pub hva: String,
    /// Dirty logging is on.
    pub log: bool,
}

/// An event.
#[derive(Debug)]
pub(crate) struct EventLine<'a> {
    /// Its place in the order.
    pub(crate) n: u64,
    /// As the kernel wrote it.
    pub(crate) record: &'a Record,
    /// Its layout.
    pub(crate) format: &'a Format,
}

/// The last line.
#[derive(serde::Serialize, Debug)]
pub(crate) struct Last {
    /// `end`.
    pub(crate) event: &'static str,
    /// How many events the file has.
    pub(crate) events: u64,
    /// How many the kernel had no room for.
    pub(crate) lost: u64,
}

impl Serialize for EventLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("n", &self.n)?;
        line.serialize_entry("cpu", &self.record.cpu)?;
        let common = |name: &str| self.format.fields.iter().find(|field| field.name == name);
        let pid = common("common_pid").map(|field| number(field, &self.record.data));
        if self.format.name == PRINT {
            line.serialize_entry("event", "user")?;
            line.serialize_entry("pid", &pid)?;
            for (name, value) in marked(self.format, &self.record.data) {
                line.serialize_entry(&name, &value)?;
            }
            return line.end();
        }
        line.serialize_entry("event", &self.format.name)?;
        line.serialize_entry("pid", &pid)?;
        for field in self.format.fields.iter().filter(|f| !f.name.starts_with("common_")) {
            line.serialize_entry(&field.name, &number(field, &self.record.data))?;
        }
        line.end()
    }
}

/// What user space wrote to trace_marker.
fn marked(format: &Format, data: &[u8]) -> Map<String, Value> {
    let text = format.fields.iter().find(|field| field.name == "buf");
    let text = text.and_then(|field| data.get(field.offset..)).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    serde_json::from_slice(text).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(text).trim_end().to_owned();
        Map::from_iter([("text".to_owned(), Value::String(text))])
    })
}

/// The value of a field.
fn number(field: &Field, data: &[u8]) -> Value {
    let Some(bytes) = data.get(field.offset..field.offset + field.size) else {
        return Value::Null;
    };
    let mut wide = [0; 8];
    let Some(low) = wide.get_mut(..bytes.len()) else { return Value::Null };
    low.copy_from_slice(bytes);
    let value = u64::from_le_bytes(wide);
    if field.size == 8 || BIT_SETS.contains(&field.name.as_str()) {
        return format!("{value:#x}").into();
    }
    if field.signed {
        // Moves the sign bit of the field to the top and back.
        let unused = 64 - 8 * u32::try_from(field.size).unwrap_or(8);
        return ((value << unused).cast_signed() >> unused).into();
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, offset: usize, size: usize, signed: bool) -> Field {
        Field { name: name.into(), offset, size, signed }
    }

    fn line(format: &Format, data: &[u8]) -> String {
        let record = Record { time: 5, cpu: 2, data: data.to_vec() };
        serde_json::to_string(&EventLine { n: 7, record: &record, format }).unwrap()
    }

    #[test]
    fn an_event_has_its_own_fields() {
        let fields = vec![
            field("common_type", 0, 2, false),
            field("common_pid", 4, 4, true),
            field("vcpu_id", 8, 4, true),
            field("error_code", 12, 4, false),
            field("old_spte", 16, 8, false),
        ];
        let format = Format { name: "fast_page_fault".into(), id: 9, fields };
        let mut data = vec![9, 0, 0, 0, 200, 0, 0, 0];
        data.extend((-1i32).to_le_bytes());
        data.extend(7u32.to_le_bytes());
        data.extend(0x8000_0000_0000_0c27u64.to_le_bytes());
        assert_eq!(
            line(&format, &data),
            "{\"n\":7,\"cpu\":2,\"event\":\"fast_page_fault\",\"pid\":200,\"vcpu_id\":-1,\
             \"error_code\":\"0x7\",\"old_spte\":\"0x8000000000000c27\"}"
        );
        // A record that is too short has no value there, and is no panic.
        assert!(line(&format, &data[..13]).contains("\"old_spte\":null"));
    }

    #[test]
    fn what_user_space_wrote_is_merged() {
        let fields = vec![field("common_pid", 4, 4, true), field("buf", 8, 0, false)];
        let format = Format { name: PRINT.into(), id: 5, fields };
        let data = |text: &str| [&[5, 0, 0, 0, 1, 0, 0, 0], text.as_bytes(), &[0, 0]].concat();
        assert_eq!(
            line(&format, &data("{\"op\":\"stop\",\"phase\":\"enter\",\"slot\":1}\n")),
            "{\"n\":7,\"cpu\":2,\"event\":\"user\",\"pid\":1,\"op\":\"stop\",\
             \"phase\":\"enter\",\"slot\":1}"
        );
        assert!(line(&format, &data("somebody else")).contains("\"text\":\"somebody else\""));
    }
}
