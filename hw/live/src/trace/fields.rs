//! The fields of an event, from its `format` file.

use std::io;

/// The layout of one kind of event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// Its name.
    pub(crate) name: String,
    /// What `common_type` is for it.
    pub(crate) id: u16,
    /// Its own fields; those that all events have come first.
    pub(crate) fields: Vec<Field>,
}

/// One field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: String,
    /// Where it begins.
    pub(crate) offset: usize,
    /// Its size in bytes; 0: text up to the end of the record.
    pub(crate) size: usize,
    /// A signed number.
    pub(crate) signed: bool,
}

impl Format {
    /// Reads a `format` file.
    pub(crate) fn parse(text: &str) -> io::Result<Format> {
        let after = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = after("name: ").ok_or_else(|| bad("name:"))?;
        let id = after("ID: ").and_then(|id| id.trim().parse().ok()).ok_or_else(|| bad("ID:"))?;
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("field:"));
        let fields = lines.map(|line| field(line).ok_or_else(|| bad(line)));
        Ok(Format { name: name.trim().to_owned(), id, fields: fields.collect::<io::Result<_>>()? })
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::other(format!("a format file of tracefs has no usable '{what}'"))
}

/// Reads a line such as `unsigned long gva; offset:16; size:8; signed:0;`.
fn field(line: &str) -> Option<Field> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse::<usize>().ok();
    let (offset, size) = (number("offset:")?, number("size:")?);
    let signed = number("signed:")? == 1;
    let name = declaration.rsplit([' ', '*']).next()?;
    let name = name.split('[').next()?;
    Some(Field { name: name.to_owned(), offset, size, signed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
name: fast_page_fault
ID: 1234
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:int vcpu_id;	offset:8;	size:4;	signed:1;
	field:u64 * sptep;	offset:16;	size:8;	signed:0;
	field:char buf[];	offset:24;	size:0;	signed:0;

print fmt: \"vcpu %d\", REC->vcpu_id
";

    #[test]
    fn a_format_file_is_read() {
        let format = Format::parse(TEXT).unwrap();
        assert_eq!((format.name.as_str(), format.id), ("fast_page_fault", 1234));
        let names: Vec<_> = format.fields.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["common_type", "common_pid", "vcpu_id", "sptep", "buf"]);
        assert_eq!(format.fields[3].offset, 16);
        assert!(format.fields[2].signed && !format.fields[3].signed);
    }

    #[test]
    fn a_damaged_format_file_is_an_error() {
        assert!(Format::parse("").is_err());
        assert!(Format::parse("name: x\nID: many\n").is_err());
        assert!(Format::parse(&TEXT.replace("size:8", "size:eight")).is_err());
    }
}
