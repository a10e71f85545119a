//! Which address a request comes from: the peer's, or what a trusted proxy says it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

/// The client, after proxies; put into every request by its connection.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// Put into a request by its connection when the client has too many under way already.
#[derive(Debug, Clone, Copy)]
pub struct TooManyRequests;

impl ClientAddress {
    /// What the connection found; no address where there is none.
    #[must_use]
    pub fn in_extensions(extensions: &Extensions) -> IpAddr {
        extensions.get::<Self>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.0)
    }
}

/// Walks `X-Forwarded-For` from the right for as long as the hop that wrote an entry is a trusted proxy.
#[must_use]
pub fn of(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    let entries: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for entry in entries.iter().rev() {
        if !is_trusted(address, trusted) {
            break;
        }
        let Some(next) = hop(entry.trim()) else { break };
        address = next.to_canonical();
    }
    address
}

/// An address as proxies write it: alone, in brackets, or with a port (`9.8.7.6:1234`, `[2001:db8::1]:1234`).
fn hop(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

/// Whether an address is one of the configured proxies.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_hops_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("network")];
        let cases = [
            ("9.9.9.9", "1.2.3.4", "9.9.9.9"),
            ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
            ("10.0.0.1", "rubbish", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
            ("10.0.0.1", "9.8.7.6:1234", "9.8.7.6"),
            ("10.0.0.1", "[2001:db8::1]:1234", "2001:db8::1"),
            ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4:80, 10.0.0.2:4711", "1.2.3.4"),
            ("10.0.0.1", "9.8.7.6:", "10.0.0.1"),
            ("10.0.0.1", "[9.8.7.6]", "10.0.0.1"),
        ];
        for (peer, forwarded, expected) in cases {
            let peer = peer.parse().expect("address");
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().expect("header"));
            assert_eq!(of(&headers, peer, &trusted), expected.parse::<IpAddr>().expect("address"), "{peer} {forwarded}");
        }
    }
}
