//! A process that decodes images, one after the other, and has nothing to lose: no environment, no files, no network, bounded memory
//! and CPU. It ends with its input.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use imagewell_core::workers::{ANSWER_REFUSED, ANSWER_RENDERED};
use imagewell_imaging::Limits;
use imagewell_imaging::render::render;
use imagewell_imaging::transform::Transform;
use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

/// Address space; the decoder's own cap is 512 MiB.
const ADDRESS_SPACE_BYTES_MAX: u64 = 1536 * 1024 * 1024;
/// Seconds of CPU time, of all jobs together.
const CPU_SECONDS_MAX: u64 = 120;
/// Bytes of the source.
const SOURCE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a transform's text.
const TRANSFORM_BYTES_MAX: u32 = 256;

pub(super) fn run(what: Option<&str>) -> ExitCode {
    let sandbox = enter_sandbox();
    if what == Some("probe") {
        println!("{sandbox}\n{}", escape_attempts());
        return ExitCode::SUCCESS;
    }
    loop {
        match job() {
            Ok(true) => {}
            Ok(false) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Takes one job and answers it; false when there is none any more.
fn job() -> std::io::Result<bool> {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(false);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length > TRANSFORM_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut transform = vec![0; length as usize];
    input.read_exact(&mut transform)?;
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    if length > SOURCE_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut source = Vec::new();
    if input.take(length).read_to_end(&mut source)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    answer(&transform, &source)?;
    Ok(true)
}

fn answer(transform: &[u8], source: &[u8]) -> std::io::Result<()> {
    // What came in was checked against the operator's limits before it was stored; these are the decoder's own.
    let rendered = match String::from_utf8_lossy(transform).parse::<Transform>() {
        Ok(transform) => render(source, &transform, &Limits::default()).map_err(|error| error.to_string()),
        Err(hint) => Err(hint.to_owned()),
    };
    let (kind, bytes) = match rendered {
        Ok(bytes) => (ANSWER_RENDERED, bytes),
        Err(reason) => (ANSWER_REFUSED, reason.into_bytes()),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(&[kind])?;
    out.write_all(&(bytes.len() as u64).to_be_bytes())?;
    out.write_all(&bytes)?;
    out.flush()
}

/// Gives up every right that decoding doesn't need, as far as the kernel goes along, and says how far that was.
fn enter_sandbox() -> String {
    for (resource, limit) in
        [(Resource::As, ADDRESS_SPACE_BYTES_MAX), (Resource::Cpu, CPU_SECONDS_MAX), (Resource::Core, 0), (Resource::Fsize, 0)]
    {
        // Lower hard limits of the surroundings stay in force.
        let _ = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
    }
    let files = match no_files_or_network() {
        Ok(RulesetStatus::FullyEnforced) => "enforced",
        Ok(RulesetStatus::PartiallyEnforced) => "enforced in part",
        _ => "not supported by this kernel",
    };
    let calls = if few_system_calls().is_ok() { "enforced" } else { "not supported by this kernel" };
    format!("landlock {files}, seccomp {calls}, memory and CPU limits enforced")
}

/// What happens when a decoder that was taken over tries to get out.
fn escape_attempts() -> String {
    let verdict = |succeeded: bool| if succeeded { "ALLOWED" } else { "refused" };
    let file = std::fs::File::open("/etc/passwd").is_ok();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
    let process = std::process::Command::new("/bin/true").spawn().is_ok();
    let variables = std::env::vars_os().count();
    format!("file {}, socket {}, process {}, {variables} variables", verdict(file), verdict(socket), verdict(process))
}

fn no_files_or_network() -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V5;
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?.handle_access(AccessNet::from_all(abi))?;
    Ok(ruleset.create()?.restrict_self()?.ruleset)
}

/// Memory, the open pipes, the clock, threads of its own and the end. Everything else fails as if forbidden.
fn few_system_calls() -> Result<(), Box<dyn std::error::Error>> {
    let allowed = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Refused by the other filter, in the way that makes libc fall back to clone.
        libc::SYS_clone3,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    // The JPEG decoder has a thread for each colour. A thread is not a process: it stays inside of all this.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    let (forbidden, unknown) = (libc::EPERM.unsigned_abs(), libc::ENOSYS.unsigned_abs());
    // clone3 hides its flags in memory, where a filter can't look.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply(no_clone3, SeccompAction::Allow, SeccompAction::Errno(unknown))?;
    apply(rules, SeccompAction::Errno(forbidden), SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<(), Box<dyn std::error::Error>> {
    let filter = SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
