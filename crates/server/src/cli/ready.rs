use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use super::Outcome;
use crate::config::Settings;

/// For the answer of a service on this machine.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Asks the service on this machine whether it can work; exits with 1 where it can't, or isn't there. For container engines,
/// which ask by running a program.
pub(super) async fn run(settings: Settings) -> Outcome {
    let scheme = if settings.tls.certificate_file.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", on_this_machine(settings.service.listen));
    // Its certificate is for the name that others know it by.
    let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).timeout(WAIT_MAX).build()?;
    let answer = match client.get(&url).send().await {
        Ok(answer) => answer,
        Err(error) => return Err(format!("{url} does not answer: {error}").into()),
    };
    if answer.status().is_success() {
        println!("ready");
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{url} answers {}: it is starting or stopping, or the log says what stands in the way", answer.status()).into())
}

/// Who listens on all addresses listens on the loopback too.
fn on_this_machine(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_all_addresses_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(on_this_machine(listen.parse().expect("address")).to_string(), asked);
        }
    }
}
