//! A process that decodes one image and has nothing to lose: no environment, no files, no network, bounded memory and CPU.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use imagewell_core::workers::{ANSWER_REFUSED, ANSWER_RENDERED};
use imagewell_imaging::Limits;
use imagewell_imaging::render::{Fit, render};
use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Address space; the decoder's own cap is 512 MiB.
const ADDRESS_SPACE_BYTES_MAX: u64 = 1536 * 1024 * 1024;
/// Seconds of CPU time.
const CPU_SECONDS_MAX: u64 = 20;
/// Bytes of the source.
const SOURCE_BYTES_MAX: u64 = 256 * 1024 * 1024;

pub(super) fn run(fit: &str) -> ExitCode {
    let sandbox = enter_sandbox();
    if fit == "probe" {
        println!("{sandbox}\n{}", escape_attempts());
        return ExitCode::SUCCESS;
    }
    match answer(fit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(fit: &str) -> std::io::Result<()> {
    let mut source = Vec::new();
    std::io::stdin().lock().take(SOURCE_BYTES_MAX).read_to_end(&mut source)?;
    // What came in was checked against the operator's limits before it was stored; these are the decoder's own.
    let rendered = match fit.parse::<Fit>() {
        Ok(fit) => render(&source, fit, &Limits::default()).map_err(|error| error.to_string()),
        Err(hint) => Err(hint.to_owned()),
    };
    let mut out = std::io::stdout().lock();
    match rendered {
        Ok(bytes) => {
            out.write_all(&[ANSWER_RENDERED])?;
            out.write_all(&bytes)?;
        }
        Err(reason) => {
            out.write_all(&[ANSWER_REFUSED])?;
            out.write_all(reason.as_bytes())?;
        }
    }
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
    format!("file {}, socket {}, process {}", verdict(file), verdict(socket), verdict(process))
}

fn no_files_or_network() -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V5;
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?.handle_access(AccessNet::from_all(abi))?;
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
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    let forbidden = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, forbidden, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
