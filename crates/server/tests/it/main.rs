//! All behaviour through the front door: a real server on a real socket, a real database and a real disk for every test.

// The futures of whole moves are deeper than the compiler takes by itself.
#![recursion_limit = "256"]

mod addresses;
mod app;
mod attempts;
mod backup_folders;
mod backups;
mod base64;
mod bodies;
mod buckets;
mod certificates;
mod cli;
mod clock;
mod connections;
mod damage;
mod delivery;
mod docs;
mod doctor;
mod drawings;
mod dropbox;
mod durability;
mod failover;
mod faults;
mod file_service;
mod files;
mod fixtures;
mod forms;
mod identity;
mod kept;
mod looking;
mod making;
mod mounts;
mod moving;
mod native;
mod nodes;
mod operators;
mod pixels;
mod pooler;
mod process;
mod protocol;
mod reading;
mod records;
mod refusals;
mod rendering;
mod scrubbing;
mod sharing;
mod site;
mod stuck;
mod sweeping;
mod takeover;
mod uploading;
mod variety;
mod workers;
