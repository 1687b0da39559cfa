//! An input: four bytes that say how the text after them is tried, and the text.
//!
//! An input is one file, so that a found one can be tried alone.

/// How many bytes come before the text.
pub const KNOBS: usize = 4;

/// How a text is tried. What each means is its target's business.
pub type Knobs = [u8; KNOBS];

/// The two parts of an input; `None`: it is too short for any.
pub fn split(data: &[u8]) -> Option<(Knobs, &[u8])> {
    let (knobs, text) = data.split_first_chunk()?;
    Some((*knobs, text))
}

/// The input of these parts.
pub fn join(knobs: Knobs, text: &[u8]) -> Vec<u8> {
    [&knobs, text].concat()
}
