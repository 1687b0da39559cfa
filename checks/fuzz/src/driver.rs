//! The only door to libFuzzer: its driver is called with a command line of its own.

use std::ffi::{CString, c_char, c_int};
use std::process::ExitCode;
use std::ptr;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

use crate::{mutate, targets};

fuzz_target!(|data: &[u8]| targets::try_input(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, fuzzer_mutate)
});

/// One input.
type Try = unsafe extern "C" fn(*const u8, usize) -> c_int;

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(argc: *mut c_int, argv: *mut *mut *mut c_char, tries: Try) -> c_int;
    fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> c_int;
}

/// Runs libFuzzer with these arguments; it ends the process itself where it finds something.
pub fn run(arguments: &[String]) -> ExitCode {
    let program = ["fuzzer".to_owned()];
    let words: Vec<CString> = program
        .iter()
        .chain(arguments)
        .map(|word| CString::new(word.as_str()).expect("an argument has no zero byte"))
        .collect();
    let mut argv: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let mut argc = c_int::try_from(argv.len()).expect("there are few arguments");
    argv.push(ptr::null_mut());
    let mut first = argv.as_mut_ptr();
    // SAFETY: `argc` words and a null pointer, alive until the call returns; libFuzzer does not
    // write to them. LLVMFuzzerTestOneInput is what `fuzz_target!` defines.
    let code = unsafe { LLVMFuzzerRunDriver(&mut argc, &mut first, LLVMFuzzerTestOneInput) };
    ExitCode::from(u8::from(code != 0))
}
