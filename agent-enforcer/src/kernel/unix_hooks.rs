//! The programs of `connect_unix` and `sendmsg_unix` (6.7), hooks that aya 0.14 does not know.
//!
//! In: the object, its maps as aya has made them, a cgroup. Out: programs that the verifier has
//! accepted, and their pinned links. aya's own parser relocates; only the calls that name the hook
//! are made here.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use agent_enforcer_common::names;
use aya::{
    Ebpf, EbpfError,
    maps::{Map, MapData},
    programs::links::PinnedLink,
};
use aya_obj::{
    Function, Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};

use super::{loader::LoadError, pins::Pins};

const HOOKS: [(&str, bpf_attach_type); 2] = [
    (names::CONNECT_UNIX, bpf_attach_type::BPF_CGROUP_UNIX_CONNECT),
    (names::SENDMSG_UNIX, bpf_attach_type::BPF_CGROUP_UNIX_SENDMSG),
];
/// Where aya has put the settings.
const CONSTANTS: &str = ".rodata";
/// Room for what the verifier says.
const LOG_BYTES: u32 = 1 << 20;
/// Of its end, what is shown.
const LOG_SHOWN: usize = 2000;

/// A program of one of the hooks, loaded.
pub(super) struct UnixHook {
    pub(super) name: &'static str,
    attach_type: bpf_attach_type,
    program: OwnedFd,
}

/// Loads both.
pub(super) fn load(ebpf: &Ebpf, pins: &Pins, object: &[u8]) -> Result<Vec<UnixHook>, LoadError> {
    let mut object = Object::parse(object).map_err(EbpfError::from)?;
    let maps = maps_of(&object, ebpf, pins)?;
    let types = match aya::features().btf() {
        Some(features) => object.fixup_and_sanitize_btf(features).map_err(EbpfError::from)?,
        None => None,
    };
    let types = types.map(|types| load_types(&types.to_bytes())).transpose()?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let own = mem::take(&mut object.maps);
    let placed = maps
        .iter()
        .filter_map(|(name, map)| Some((name.as_str(), map.as_fd().as_raw_fd(), own.get(name)?)));
    object.relocate_maps(placed, &sections).map_err(EbpfError::from)?;
    object.relocate_calls(&sections).map_err(EbpfError::from)?;
    object.sanitize_functions(aya::features());
    let load = |(name, attach_type)| {
        let no_program = || LoadError::NoProgram { name };
        let program = object.programs.get(name).ok_or_else(no_program)?;
        let function = object.functions.get(&program.function_key()).ok_or_else(no_program)?;
        let types = types.as_ref().map(|types| types.as_fd());
        let program = load_program(name, attach_type, &program.license, function, types)?;
        Ok(UnixHook { name, attach_type, program })
    };
    HOOKS.into_iter().map(load).collect()
}

impl UnixHook {
    /// Puts the program in force, beside others, as long as its pin or the link is kept.
    pub(super) fn attach(&self, cgroup: &File, pin: &Path) -> Result<PinnedLink, LoadError> {
        let failed = |call| move |source| LoadError::Hook { name: self.name, call, source };
        // SAFETY: all zeroes are a `bpf_attr`.
        let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
        attr.link_create.__bindgen_anon_1.prog_fd = number(&self.program);
        attr.link_create.__bindgen_anon_2.target_fd = number(cgroup);
        attr.link_create.attach_type = self.attach_type as u32;
        let link = descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr).map_err(failed("attach"))?;
        let path = CString::new(pin.as_os_str().as_bytes())
            .map_err(|error| failed("pin")(io::Error::other(error)))?;
        // SAFETY: as above.
        let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
        attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        attr.__bindgen_anon_4.bpf_fd = number(&link);
        bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map_err(failed("pin"))?;
        PinnedLink::from_pin(pin).map_err(|source| LoadError::Link { name: self.name, source })
    }
}

/// The maps of the object, by name: pinned, or aya's own.
fn maps_of(object: &Object, ebpf: &Ebpf, pins: &Pins) -> Result<Vec<(String, OwnedFd)>, LoadError> {
    let map = |name: &String| {
        let map = match names::MAPS.iter().find(|pinned| *pinned == name) {
            Some(pinned) => duplicate(pinned, &pinned_map(pinned, pins)?)?,
            None => match ebpf.map(name) {
                Some(Map::Array(map)) => duplicate(CONSTANTS, map)?,
                Some(_) | None => return Err(LoadError::NoMap { name: CONSTANTS }),
            },
        };
        Ok((name.clone(), map))
    };
    object.maps.keys().map(map).collect()
}

fn pinned_map(name: &'static str, pins: &Pins) -> Result<MapData, LoadError> {
    MapData::from_pin(pins.map(name)).map_err(|source| LoadError::Map { name, source })
}

fn duplicate(name: &'static str, map: &MapData) -> Result<OwnedFd, LoadError> {
    let map = map.fd().as_fd().try_clone_to_owned();
    map.map_err(|source| LoadError::Hook { name, call: "keep the map of", source })
}

fn load_types(types: &[u8]) -> Result<OwnedFd, LoadError> {
    let failed = |source| LoadError::Hook { name: names::CONNECT_UNIX, call: "load types", source };
    // SAFETY: all zeroes are a `bpf_attr`.
    let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
    attr.__bindgen_anon_7.btf = types.as_ptr() as u64;
    attr.__bindgen_anon_7.btf_size =
        u32::try_from(types.len()).map_err(|error| failed(io::Error::other(error)))?;
    descriptor(bpf_cmd::BPF_BTF_LOAD, &mut attr).map_err(failed)
}

fn load_program(
    name: &'static str,
    attach_type: bpf_attach_type,
    license: &CStr,
    function: &Function,
    types: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, LoadError> {
    let (lines, functions) =
        (function.line_info.line_info_bytes(), function.func_info.func_info_bytes());
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let load = |log: &mut [u8]| {
        // SAFETY: all zeroes are a `bpf_attr`.
        let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
        // SAFETY: of a union whose bytes are all numbers.
        let program = unsafe { &mut attr.__bindgen_anon_3 };
        for (to, from) in program.prog_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        program.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
        program.expected_attach_type = attach_type as u32;
        program.insns = function.instructions.as_ptr() as u64;
        program.insn_cnt = size(function.instructions.len());
        program.license = license.as_ptr() as u64;
        if let Some(types) = types {
            program.prog_btf_fd = number(types);
            program.line_info = lines.as_ptr() as u64;
            program.line_info_cnt = size(function.line_info.len());
            program.line_info_rec_size = size(function.line_info_rec_size);
            program.func_info = functions.as_ptr() as u64;
            program.func_info_cnt = size(function.func_info.len());
            program.func_info_rec_size = size(function.func_info_rec_size);
        }
        if !log.is_empty() {
            program.log_level = 1;
            program.log_buf = log.as_mut_ptr() as u64;
            program.log_size = size(log.len());
        }
        descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr)
    };
    load(&mut []).or_else(|_refused| {
        let mut log = vec![0; LOG_BYTES as usize];
        load(&mut log).map_err(|error| {
            let text: Vec<u8> = log.into_iter().take_while(|byte| *byte != 0).collect();
            let end = text.get(text.len().saturating_sub(LOG_SHOWN)..).unwrap_or_default();
            let source = io::Error::new(error.kind(), format!("{error}: {}", end.escape_ascii()));
            LoadError::Hook { name, call: "load", source }
        })
    })
}

fn number(file: impl std::os::fd::AsFd) -> u32 {
    // A descriptor is no negative number.
    file.as_fd().as_raw_fd().cast_unsigned()
}

fn descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attr)?;
    // SAFETY: these commands return a descriptor that is nobody else's yet.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let size = size_of::<bpf_attr>();
    // SAFETY: what the addresses in it lead to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
