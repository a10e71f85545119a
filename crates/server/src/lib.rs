//! imagewell's outside: HTTP, the command line and settings. The service itself is in `imagewell-core`.

mod allocator;
pub mod api;
pub mod auth;
pub mod cli;
mod clients;
pub mod config;
mod connection;
mod delivery;
mod guard;
mod health;
mod intake;
pub mod links;
mod listener;
mod log_lines;
pub mod moved;
mod multipart;
mod pace;
pub mod pages;
mod response_body;
pub mod router;
pub mod serve;
pub mod signed;
mod streams;
mod surrounded;
pub mod telemetry;
mod tls;
