//! A process that decodes images, one after the other, and has nothing to lose: no environment, no files, no network, bounded memory
//! and CPU. It ends with its input.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use imagewell_core::workers::{ANSWER_REFUSED, ANSWER_RENDERED, JOB_CHECK, JOB_LOOK, JOB_RASTERISE};
use imagewell_imaging::look::{check, look};
use imagewell_imaging::render::render;
use imagewell_imaging::svg::rasterise;
use imagewell_imaging::transform::Transform;
use imagewell_imaging::{Error, Limits};
use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

/// Address space; the decoder's own cap is 512 MiB.
const ADDRESS_SPACE_BYTES_MAX: u64 = 1536 * 1024 * 1024;
/// Seconds of CPU time, of all jobs together, after which it dies of SIGXCPU.
const CPU_SECONDS_MAX: u64 = 120;
/// Seconds of CPU time after which it dies of SIGKILL, should the other signal not have done it. Whoever finds a worker that died of
/// SIGKILL takes it for the doing of others.
const CPU_SECONDS_AT_LAST: u64 = CPU_SECONDS_MAX + 5;
/// Bytes that wait in a pipe; more than this needs a privilege (pipe(7)).
const PIPE_BYTES: usize = 1024 * 1024;
/// Bytes of the source.
const SOURCE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a job's text.
const JOB_BYTES_MAX: u32 = 256;

pub(super) fn run(what: &str, limits: Limits) -> ExitCode {
    ignore_ends();
    widen_pipes();
    let sandbox = enter_sandbox();
    if what == "probe" {
        println!("{sandbox}\n{}", escape_attempts());
        return ExitCode::SUCCESS;
    }
    loop {
        match job(&limits) {
            Ok(true) => {}
            Ok(false) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// A service manager and a terminal send these to all processes of a service. The server drains then, and needs its workers for
/// that; they end with their input.
#[expect(unsafe_code, reason = "no crate at hand sets a signal to be ignored")]
fn ignore_ends() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler of ours runs; the call has no other effect.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A picture goes through a pipe of 64 KiB in dozens of turns between two processes; through a wide one in a few. Where the system
/// allows no wide ones it takes longer.
fn widen_pipes() {
    let _ = rustix::pipe::fcntl_setpipe_size(std::io::stdin(), PIPE_BYTES);
    let _ = rustix::pipe::fcntl_setpipe_size(std::io::stdout(), PIPE_BYTES);
}

/// Takes one job and answers it; false when there is none any more.
fn job(limits: &Limits) -> std::io::Result<bool> {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(false);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length > JOB_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut job = vec![0; length as usize];
    input.read_exact(&mut job)?;
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    if length > SOURCE_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut source = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    if input.take(length).read_to_end(&mut source)? as u64 != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    answer(&job, &source, limits)?;
    Ok(true)
}

fn answer(job: &[u8], source: &[u8], limits: &Limits) -> std::io::Result<()> {
    let job = String::from_utf8_lossy(job);
    // A decoder that panics has met a picture that it can't read; whatever it left behind ends with this process.
    let done = std::panic::catch_unwind(|| done(&job, source, limits));
    let panicked = done.is_err();
    let rendered =
        done.unwrap_or_else(|_| Err("the image can't be rendered: its image data breaks the rules of its format".to_owned()));
    let (kind, bytes) = match rendered {
        Ok(bytes) => (ANSWER_RENDERED, bytes),
        Err(reason) => (ANSWER_REFUSED, reason.into_bytes()),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(&[kind])?;
    out.write_all(&(bytes.len() as u64).to_be_bytes())?;
    out.write_all(&bytes)?;
    out.flush()?;
    if panicked { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
}

fn done(job: &str, source: &[u8], limits: &Limits) -> Result<Vec<u8>, String> {
    if job == JOB_LOOK {
        return look(source, limits).map(|look| look.to_string().into_bytes()).map_err(|error| error.to_string());
    }
    if job == JOB_CHECK {
        return match check(source, limits) {
            Ok(()) => Ok(Vec::new()),
            Err(error @ (Error::Undrawable { .. } | Error::Unsupported { .. } | Error::OverLimit { .. })) => {
                Ok(error.to_string().into_bytes())
            }
            Err(error) => Err(error.to_string()),
        };
    }
    if job == JOB_RASTERISE {
        return rasterise(source, limits).map_err(|error| error.to_string());
    }
    let transform: Transform = job.parse().map_err(str::to_owned)?;
    render(source, &transform, limits).map_err(|error| error.to_string())
}

/// Gives up every right that decoding doesn't need, as far as the kernel goes along, and says how far that was.
fn enter_sandbox() -> String {
    for (resource, limit, at_last) in [
        (Resource::As, ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX),
        (Resource::Cpu, CPU_SECONDS_MAX, CPU_SECONDS_AT_LAST),
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
    ] {
        // Lower hard limits of the surroundings stay in force.
        let _ = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(at_last) });
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
    let thread = std::thread::Builder::new().spawn(|| {}).is_ok();
    let signal = signal_reaches(std::os::unix::process::parent_id());
    let variables = std::env::vars_os().count();
    format!(
        "file {}, socket {}, process {}, thread {}, signal {}, {variables} variables",
        verdict(file),
        verdict(socket),
        verdict(process),
        verdict(thread),
        verdict(signal)
    )
}

/// Whether a signal could be sent to a process; signal 0 does it no harm (kill(2)).
#[expect(unsafe_code, reason = "no crate wraps tgkill(2); it takes three numbers")]
fn signal_reaches(process: u32) -> bool {
    // SAFETY: it touches no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, process, process, 0) == 0 }
}

fn no_files_or_network() -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?;
    Ok(ruleset.create()?.restrict_self()?.ruleset)
}

/// Memory, the open pipes, the clock and the end. Everything else fails as if forbidden.
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
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    // For abort(3): a signal to itself, and to nobody else.
    let itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, std::process::id().into())?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![itself])?]);
    let forbidden = libc::EPERM.unsigned_abs();
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
