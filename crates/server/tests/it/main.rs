//! All behaviour through the front door: a real server on a real socket, a real database and a real disk for every test.

mod app;
mod base64;
mod bodies;
mod cli;
mod delivery;
mod docs;
mod drawings;
mod dropbox;
mod durability;
mod failover;
mod faults;
mod file_service;
mod files;
mod fixtures;
mod moving;
mod native;
mod nodes;
mod process;
mod protocol;
mod reading;
mod records;
mod rendering;
mod site;
mod sweeping;
mod uploading;
mod workers;
