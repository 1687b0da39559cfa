//! QEMU's plugin interface, version 4 (QEMU 9.2 and later): all `unsafe` is here.
//!
//! What QEMU calls is handed on to [`Handlers`]; what it offers has a safe function. Its functions
//! are looked up when the plugin is loaded.
#![expect(unsafe_code, reason = "the interface of a program in C")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::Library;

use crate::kind::Kind;

/// The version of the interface that is spoken.
const VERSION: c_int = 4;
/// Callbacks may read registers.
const READ_REGISTERS: c_int = 1;
/// Which accesses are told of.
const STORES: c_int = 2;
const ALL: c_int = 3;
/// No instruction is longer.
pub(crate) const INSTRUCTION_MAX: usize = 16;

/// What QEMU looks for.
#[unsafe(no_mangle)]
pub(crate) static qemu_plugin_version: c_int = VERSION;

/// What the machine is.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    /// The target: `aarch64`.
    pub target: String,
    /// How many CPUs.
    pub cpus: u32,
    /// What stands after the plugin's name, `name=value` each.
    pub options: Vec<String>,
}

/// What is called. None of these may panic: there is QEMU below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handlers {
    /// The plugin is loaded. An error keeps the machine from starting.
    pub install: fn(&Info) -> Result<(), String>,
    /// The first CPU is there: registers have names from now on.
    pub begin: fn(&[Register]),
    /// An instruction is translated.
    pub translate: fn(&Instruction<'_>),
    /// An instruction that was asked for is about to be executed.
    pub execute: fn(Cpu, Site),
    /// A store was executed by the instruction at this address.
    pub store: fn(Cpu, Access, u64),
    /// The same, of any access of an instruction that was asked for.
    pub touch: fn(Cpu, Access, u64),
    /// An access of a guest was executed by the instruction at this address.
    pub access: fn(Cpu, Access, u64),
    /// The machine ends.
    pub end: fn(),
}

/// The CPU that calls, by QEMU's number. Without threads of their own for CPUs, QEMU 10 gives the
/// number of the one that translated the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cpu(pub u32);

/// An instruction that is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Site {
    /// Its address.
    pub pc: u64,
    /// What it was taken for when it was translated.
    pub kind: Kind,
}

/// A register: its name, and how it is read.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    /// Its name, as gdb knows it.
    pub name: String,
    handle: usize,
}

/// `struct qemu_info_t`.
#[repr(C)]
struct RawInfo {
    target: *const c_char,
    version_min: c_int,
    version_cur: c_int,
    system: bool,
    smp_vcpus: c_int,
    max_vcpus: c_int,
}

/// `qemu_plugin_mem_value`: 24 bytes, which come back through memory.
#[repr(C)]
struct MemValue {
    kind: c_uint,
    data: [u64; 2],
}

/// `GByteArray`.
#[repr(C)]
struct ByteArray {
    data: *const u8,
    len: c_uint,
}

/// `GArray` of [`RawRegister`].
#[repr(C)]
struct RegisterArray {
    data: *const RawRegister,
    len: c_uint,
}

/// `qemu_plugin_reg_descriptor`.
#[repr(C)]
struct RawRegister {
    handle: *mut c_void,
    name: *const c_char,
    feature: *const c_char,
}

type VcpuCb = extern "C" fn(u64, c_uint);
type BlockCb = extern "C" fn(u64, *mut c_void);
type ExecuteCb = extern "C" fn(c_uint, *mut c_void);
type MemoryCb = extern "C" fn(c_uint, c_uint, u64, *mut c_void);
type ExitCb = extern "C" fn(u64, *mut c_void);
type SimpleCb = extern "C" fn(u64);

macro_rules! api {
    ($($name:ident as $symbol:literal: ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of QEMU, and of the glib that it is linked with.
        #[derive(Clone, Copy)]
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks them up; an error names the first one that is not there.
            fn find() -> Result<Api, &'static str> {
                let program = Library::this();
                // SAFETY: the names are those of functions with these signatures in version 4 of
                // the plugin interface and in glib 2; the program that has loaded us does not go.
                unsafe {
                    Ok(Api { $($name: *program.get($symbol).map_err(|_| stringify!($name))?,)* })
                }
            }
        }
    };
}

api! {
    on_vcpu as b"qemu_plugin_register_vcpu_init_cb\0": (u64, VcpuCb);
    on_block as b"qemu_plugin_register_vcpu_tb_trans_cb\0": (u64, BlockCb);
    on_exit as b"qemu_plugin_register_atexit_cb\0": (u64, ExitCb, *mut c_void);
    on_execute as b"qemu_plugin_register_vcpu_insn_exec_cb\0":
        (*mut c_void, ExecuteCb, c_int, *mut c_void);
    on_memory as b"qemu_plugin_register_vcpu_mem_cb\0":
        (*mut c_void, MemoryCb, c_int, c_int, *mut c_void);
    reset as b"qemu_plugin_reset\0": (u64, SimpleCb);
    block_len as b"qemu_plugin_tb_n_insns\0": (*const c_void) -> usize;
    block_get as b"qemu_plugin_tb_get_insn\0": (*const c_void, usize) -> *mut c_void;
    insn_address as b"qemu_plugin_insn_vaddr\0": (*const c_void) -> u64;
    insn_bytes as b"qemu_plugin_insn_data\0": (*const c_void, *mut c_void, usize) -> usize;
    insn_host as b"qemu_plugin_insn_haddr\0": (*const c_void) -> *mut c_void;
    hwaddr as b"qemu_plugin_get_hwaddr\0": (c_uint, u64) -> *mut c_void;
    hwaddr_is_io as b"qemu_plugin_hwaddr_is_io\0": (*const c_void) -> bool;
    hwaddr_physical as b"qemu_plugin_hwaddr_phys_addr\0": (*const c_void) -> u64;
    is_store as b"qemu_plugin_mem_is_store\0": (c_uint) -> bool;
    size_shift as b"qemu_plugin_mem_size_shift\0": (c_uint) -> c_uint;
    value as b"qemu_plugin_mem_get_value\0": (c_uint) -> MemValue;
    registers as b"qemu_plugin_get_registers\0": () -> *mut RegisterArray;
    read_register as b"qemu_plugin_read_register\0": (*mut c_void, *mut ByteArray) -> c_int;
    read_memory as b"qemu_plugin_read_memory_vaddr\0": (u64, *mut ByteArray, usize) -> bool;
    say as b"qemu_plugin_outs\0": (*const c_char);
    array_new as b"g_byte_array_new\0": () -> *mut ByteArray;
    array_resize as b"g_byte_array_set_size\0": (*mut ByteArray, c_uint) -> *mut ByteArray;
    array_free as b"g_byte_array_free\0": (*mut ByteArray, c_int) -> *mut u8;
}

/// What is known since the plugin was loaded.
struct Loaded {
    api: Api,
    id: u64,
    handlers: Handlers,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();

fn loaded() -> Option<&'static Loaded> {
    LOADED.get()
}

/// An instruction that is being translated.
#[derive(Debug)]
pub(crate) struct Instruction<'t> {
    insn: *mut c_void,
    block: PhantomData<&'t ()>,
}

impl Instruction<'_> {
    /// Its virtual address.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: QEMU gave this instruction to the callback that is running.
        loaded().map_or(0, |qemu| unsafe { (qemu.api.insn_address)(self.insn) })
    }

    /// Its bytes, and how many they are.
    pub(crate) fn bytes(&self) -> ([u8; INSTRUCTION_MAX], usize) {
        let mut bytes = [0; INSTRUCTION_MAX];
        let Some(qemu) = loaded() else { return (bytes, 0) };
        // SAFETY: as above; no more is written than there is room for.
        let len =
            unsafe { (qemu.api.insn_bytes)(self.insn, bytes.as_mut_ptr().cast(), INSTRUCTION_MAX) };
        (bytes, len.min(INSTRUCTION_MAX))
    }

    /// Where it is in QEMU's own memory; 0: in none.
    pub(crate) fn host_address(&self) -> usize {
        // SAFETY: as above.
        loaded().map_or(0, |qemu| unsafe { (qemu.api.insn_host)(self.insn) }.addr())
    }

    /// [`Handlers::execute`] is called before it is executed.
    pub(crate) fn report(&self, kind: Kind) {
        let Some(qemu) = loaded() else { return };
        // Blocks are translated again and again, but instructions of interest are few.
        let site: &'static mut Site = Box::leak(Box::new(Site { pc: self.address(), kind }));
        // SAFETY: as above; the callback gets a pointer that stays valid.
        unsafe {
            let site = ptr::from_mut(site).cast();
            (qemu.api.on_execute)(self.insn, execute, READ_REGISTERS, site);
        }
    }

    /// [`Handlers::store`] is called after each of its stores.
    pub(crate) fn report_stores(&self) {
        self.report_memory(store, STORES);
    }

    /// [`Handlers::touch`] is called after each of its accesses.
    pub(crate) fn report_touches(&self) {
        self.report_memory(touch, ALL);
    }

    /// [`Handlers::access`] is called after each of its accesses.
    pub(crate) fn report_accesses(&self) {
        self.report_memory(access, ALL);
    }

    fn report_memory(&self, callback: MemoryCb, which: c_int) {
        let Some(qemu) = loaded() else { return };
        let pc = ptr::without_provenance_mut(self.address() as usize);
        // SAFETY: as above; the pointer is a number, and nothing reads through it.
        unsafe { (qemu.api.on_memory)(self.insn, callback, READ_REGISTERS, which, pc) };
    }
}

/// An access that was executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    info: c_uint,
    /// Its virtual address.
    pub address: u64,
}

impl Access {
    /// Its physical address; `None`: a device's, or none at all.
    pub(crate) fn physical(self) -> Option<u64> {
        let api = &loaded()?.api;
        // SAFETY: an access is only made by the memory callback that is running.
        unsafe {
            let at = (api.hwaddr)(self.info, self.address);
            (!at.is_null() && !(api.hwaddr_is_io)(at)).then(|| (api.hwaddr_physical)(at))
        }
    }

    /// True if it is a store.
    pub(crate) fn is_store(self) -> bool {
        // SAFETY: as above.
        loaded().is_some_and(|qemu| unsafe { (qemu.api.is_store)(self.info) })
    }

    /// Its size in bytes.
    pub(crate) fn size(self) -> u64 {
        // SAFETY: as above.
        loaded().map_or(0, |qemu| 1 << unsafe { (qemu.api.size_shift)(self.info) }.min(4))
    }

    /// What it stored or loaded, low half first; of narrow accesses only the low bytes count.
    pub(crate) fn value(self) -> [u64; 2] {
        // SAFETY: as above.
        loaded().map_or([0; 2], |qemu| unsafe { (qemu.api.value)(self.info) }.data)
    }
}

/// Bytes that QEMU writes to.
struct Bytes<'q> {
    api: &'q Api,
    array: *mut ByteArray,
}

impl<'q> Bytes<'q> {
    fn new(api: &'q Api) -> Bytes<'q> {
        // SAFETY: a plain allocation of glib.
        Bytes { api, array: unsafe { (api.array_new)() } }
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: glib keeps so many bytes there, and nothing writes to them meanwhile.
        unsafe {
            let ByteArray { data, len } = *self.array;
            if data.is_null() { &[] } else { std::slice::from_raw_parts(data, len as usize) }
        }
    }
}

impl Drop for Bytes<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { (self.api.array_free)(self.array, 1) };
    }
}

impl Register {
    /// Its low 64 bits on the CPU that calls. 0 if it cannot be read.
    pub(crate) fn read(&self) -> u64 {
        let Some(qemu) = loaded() else { return 0 };
        let bytes = Bytes::new(&qemu.api);
        // SAFETY: the handle is one that QEMU gave, and callbacks ask for registers to be readable.
        unsafe {
            (qemu.api.array_resize)(bytes.array, 0);
            let handle = ptr::with_exposed_provenance_mut(self.handle);
            if (qemu.api.read_register)(handle, bytes.array) <= 0 {
                return 0;
            }
        }
        bytes.as_slice().iter().take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

/// Memory of the CPU that calls, by its virtual address.
pub(crate) fn read_memory(address: u64, len: usize) -> Option<Vec<u8>> {
    let qemu = loaded()?;
    let bytes = Bytes::new(&qemu.api);
    // SAFETY: QEMU makes room for so many bytes, or says that it cannot read them.
    let read = unsafe { (qemu.api.read_memory)(address, bytes.array, len) };
    read.then(|| bytes.as_slice().to_vec())
}

/// Writes a word of code where QEMU has it in its own memory. What was translated of it before is
/// executed on, until all is translated again: see [`translate_again`].
///
/// `host` is what [`Instruction::host_address`] said, plus a distance within the same code.
pub(crate) fn patch(host: usize, word: u32) {
    // SAFETY: the machine's memory is mapped there, writable and for as long as QEMU runs; the
    // caller has compared the word that is there with the instruction that it expects.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(host).write_volatile(word) };
}

/// A word of code as QEMU has it; see [`patch`].
pub(crate) fn code(host: usize) -> u32 {
    // SAFETY: as for [`patch`].
    unsafe { ptr::with_exposed_provenance::<u32>(host).read_volatile() }
}

/// A line of QEMU's log (`-d plugin`).
pub(crate) fn say(text: &str) {
    let line = CString::new(format!("kvmmu: {text}\n")).unwrap_or_default();
    match loaded() {
        // SAFETY: it ends in a zero.
        Some(qemu) => unsafe { (qemu.api.say)(line.as_ptr()) },
        None => eprint!("{}", line.to_string_lossy()),
    }
}

/// All code is translated again, so that [`Handlers::translate`] sees it again.
pub(crate) fn translate_again() {
    extern "C" fn again(_: u64) {
        if let Some(qemu) = loaded() {
            register(qemu);
        }
    }
    if let Some(qemu) = loaded() {
        // SAFETY: allowed in any callback; it is done when all CPUs have stopped.
        unsafe { (qemu.api.reset)(qemu.id, again) };
    }
}

fn register(qemu: &Loaded) {
    // SAFETY: the callbacks have the types that QEMU calls.
    unsafe {
        (qemu.api.on_block)(qemu.id, translate);
        (qemu.api.on_exit)(qemu.id, end, ptr::null_mut());
    }
}

extern "C" fn vcpu(_: u64, _: c_uint) {
    let Some(qemu) = loaded() else { return };
    // SAFETY: called from a vCPU's init callback; the array's strings stay.
    let registers = unsafe {
        let array = (qemu.api.registers)();
        if array.is_null() || (*array).data.is_null() {
            return;
        }
        std::slice::from_raw_parts((*array).data, (*array).len as usize)
    };
    let registers: Vec<Register> = registers
        .iter()
        .filter(|register| !register.name.is_null())
        .map(|register| Register {
            // SAFETY: QEMU's names end in a zero.
            name: unsafe { CStr::from_ptr(register.name) }.to_string_lossy().into_owned(),
            handle: register.handle.expose_provenance(),
        })
        .collect();
    (qemu.handlers.begin)(&registers);
}

extern "C" fn translate(_: u64, block: *mut c_void) {
    let Some(qemu) = loaded() else { return };
    // SAFETY: the translator calls it with a block of its own.
    for index in 0..unsafe { (qemu.api.block_len)(block) } {
        // SAFETY: as above; the block has so many instructions.
        let insn = unsafe { (qemu.api.block_get)(block, index) };
        (qemu.handlers.translate)(&Instruction { insn, block: PhantomData });
    }
}

extern "C" fn execute(cpu: c_uint, site: *mut c_void) {
    // SAFETY: made by `Instruction::report`, and never freed.
    let site = unsafe { *site.cast::<Site>() };
    if let Some(qemu) = loaded() {
        (qemu.handlers.execute)(Cpu(cpu), site);
    }
}

extern "C" fn store(cpu: c_uint, info: c_uint, address: u64, pc: *mut c_void) {
    if let Some(qemu) = loaded() {
        (qemu.handlers.store)(Cpu(cpu), Access { info, address }, pc.addr() as u64);
    }
}

extern "C" fn touch(cpu: c_uint, info: c_uint, address: u64, pc: *mut c_void) {
    if let Some(qemu) = loaded() {
        (qemu.handlers.touch)(Cpu(cpu), Access { info, address }, pc.addr() as u64);
    }
}

extern "C" fn access(cpu: c_uint, info: c_uint, address: u64, pc: *mut c_void) {
    if let Some(qemu) = loaded() {
        (qemu.handlers.access)(Cpu(cpu), Access { info, address }, pc.addr() as u64);
    }
}

extern "C" fn end(_: u64, _: *mut c_void) {
    if let Some(qemu) = loaded() {
        (qemu.handlers.end)();
    }
}

/// Loads the plugin: what `qemu_plugin_install` of a plugin calls.
///
/// # Safety
/// `info` and `argv` are QEMU's.
unsafe fn install(id: u64, info: *const RawInfo, argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: QEMU gives a valid block, and so many strings.
    let (version, info) = unsafe {
        let text = |at: *const c_char| CStr::from_ptr(at).to_string_lossy().into_owned();
        let options = (0..usize::try_from(argc).unwrap_or(0)).map(|i| text(*argv.add(i)));
        let cpus = u32::try_from((*info).smp_vcpus).unwrap_or(0);
        let target = text((*info).target);
        ((*info).version_cur, Info { target, cpus, options: options.collect() })
    };
    let handlers = crate::HANDLERS;
    let loaded = Api::find().map_err(|missing| {
        format!("this QEMU's plugin interface is version {version} and has no {missing}: take 9.2")
    });
    let result = loaded.and_then(|api| (handlers.install)(&info).map(|()| api));
    let api = match result {
        Ok(api) => api,
        Err(error) => {
            say(&error);
            return -1;
        }
    };
    let qemu = LOADED.get_or_init(|| Loaded { api, id, handlers });
    // SAFETY: the callback has the type that QEMU calls.
    unsafe { (qemu.api.on_vcpu)(id, vcpu) };
    register(qemu);
    0
}

/// What QEMU calls.
///
/// # Safety
/// `info` and `argv` are QEMU's.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const RawInfo,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller is QEMU.
    unsafe { install(id, info, argc, argv) }
}
