//! From where accounts have proved themselves lately. A stranger elsewhere can't keep them out there, nor make them wait.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::model::AccountId;

/// Places held in memory; each is a hundred bytes.
const PLACES_MAX: usize = 40_000;

/// What counts as one address: an IPv6 caller owns its whole /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(leading(v6, 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What one party may own of addresses: networks that are taken turns with as one. An IPv6 customer gets up to a /48 (RFC 6177);
/// IPv4 is routed by no less than a /24.
#[must_use]
pub fn range(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(leading(v6, 48)),
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) & !0xff)),
    }
}

/// The address without the bits behind the first so many, of at least 1.
fn leading(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - bits)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Network(IpAddr),
    Range(IpAddr),
}

/// Accounts and places.
#[derive(Debug)]
pub(super) struct KnownPlaces {
    known_for: Duration,
    since: Cache<(AccountId, Place), Instant>,
}

impl KnownPlaces {
    pub(super) fn new(known_for: Duration) -> Self {
        Self { known_for, since: Cache::new(PLACES_MAX) }
    }

    /// The account has just proved itself from there.
    pub(super) fn note(&self, account: AccountId, address: IpAddr) {
        let now = Instant::now();
        for place in [Place::Network(network(address)), Place::Range(range(address))] {
            self.since.insert((account, place), now);
        }
    }

    /// Whether the account has proved itself from this network lately.
    pub(super) fn network(&self, account: AccountId, address: IpAddr) -> bool {
        self.holds(account, Place::Network(network(address)))
    }

    /// Whether the account has proved itself from this range lately.
    pub(super) fn range(&self, account: AccountId, address: IpAddr) -> bool {
        self.holds(account, Place::Range(range(address)))
    }

    fn holds(&self, account: AccountId, place: Place) -> bool {
        self.since.get(&(account, place)).is_some_and(|since| since.elapsed() < self.known_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_ranges_are_what_one_party_owns() {
        let cases = [
            ("1.2.3.4", "1.2.3.4", "1.2.3.0"),
            ("::ffff:1.2.3.4", "1.2.3.4", "1.2.3.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::"),
        ];
        for (address, expected_network, expected_range) in cases {
            let address: IpAddr = address.parse().expect("address");
            let shown = (network(address).to_string(), range(address).to_string());
            assert_eq!(shown, (expected_network.to_owned(), expected_range.to_owned()));
        }
    }

    #[test]
    fn an_account_is_known_where_it_was_and_for_as_long_as_is_said() {
        let places = KnownPlaces::new(Duration::from_secs(3600));
        let (account, here) = (AccountId::mint(), IpAddr::from([1, 2, 3, 4]));
        assert!(!places.network(account, here) && !places.range(account, here));
        places.note(account, here);
        assert!(places.network(account, here) && places.range(account, here));
        let beside = IpAddr::from([1, 2, 3, 0]);
        assert!(!places.network(account, beside) && places.range(account, beside));
        assert!(!places.network(AccountId::mint(), here));
        let short = KnownPlaces::new(Duration::ZERO);
        short.note(account, here);
        assert!(!short.network(account, here));
    }
}
