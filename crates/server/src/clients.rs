//! What one client address may have at once: connections, requests under way, and bodies that are
//! read and thrown away.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use imagewell_core::accounts::network;

/// The clients that have a connection or a request under way, by address. An IPv6 /64 counts as
/// one.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<IpAddr, Weak<Client>>>);

/// One of them. It is forgotten when nobody holds it any more.
#[derive(Debug)]
pub(crate) struct Client {
    clients: Arc<Clients>,
    network: IpAddr,
    connections: AtomicUsize,
    requests: AtomicUsize,
    unread_bodies: AtomicUsize,
}

/// One connection, request or unread body of a client, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    client: Arc<Client>,
    counter: fn(&Client) -> &AtomicUsize,
}

impl Clients {
    /// The client at an address.
    pub(crate) fn at(self: &Arc<Self>, address: IpAddr) -> Arc<Client> {
        let network = network(address);
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&network).and_then(Weak::upgrade) {
            return client;
        }
        let client = Arc::new(Client {
            clients: Arc::clone(self),
            network,
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            unread_bodies: AtomicUsize::new(0),
        });
        clients.insert(network, Arc::downgrade(&client));
        client
    }
}

impl Client {
    /// Counts a connection; none when the client has as many as it may.
    pub(crate) fn connect(self: &Arc<Self>, connections_max: usize) -> Option<Place> {
        self.place(|client| &client.connections, connections_max)
    }

    /// Counts a request; none when the client has as many under way as it may.
    pub(crate) fn request(self: &Arc<Self>, requests_max: usize) -> Option<Place> {
        self.place(|client| &client.requests, requests_max)
    }

    /// Counts a body that is read and thrown away; none when there are as many as there may be.
    pub(crate) fn unread_body(self: &Arc<Self>, unread_bodies_max: usize) -> Option<Place> {
        self.place(|client| &client.unread_bodies, unread_bodies_max)
    }

    fn place(self: &Arc<Self>, counter: fn(&Self) -> &AtomicUsize, max: usize) -> Option<Place> {
        let before = counter(self).fetch_add(1, Ordering::Relaxed);
        let place = Place { client: Arc::clone(self), counter };
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.counter)(&self.client).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut clients = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have come back meanwhile.
        if clients.get(&self.network).is_some_and(|client| client.strong_count() == 0) {
            clients.remove(&self.network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_counted_by_its_network_and_forgotten_with_its_last_place() {
        let clients = Arc::new(Clients::default());
        let at = |address: &str| clients.at(address.parse().expect("address"));
        let first = at("2001:db8::1").request(2).expect("the first");
        let second = at("2001:db8::2").request(2).expect("the second, of the same /64");
        assert!(at("2001:db8::3").request(2).is_none());
        assert!(at("2001:db8::3").connect(2).is_some(), "connections are counted apart");
        assert!(at("2001:db8:0:1::1").request(2).is_some(), "another network");
        drop(first);
        let third = at("2001:db8::3").request(2).expect("a place was given back");
        drop((second, third));
        assert!(clients.0.lock().expect("lock").is_empty());
    }
}
