--[[
What admit.lua is asked. Part of it.
]]
local mode, lease_id, key_scope = ARGV[1], ARGV[2], ARGV[7]
local requests, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl_us, then_us = tonumber(ARGV[5]), now_us - ARGV[6]
-- Flat, nine for each limit: to unpack tables would take five times as long. What has
-- been seen replaces what each may be at most, its 7th and 8th: of a rate the debt with
-- what is asked, us and ticks; of a quota, in ms, the end of its window.
local limits = { cmsgpack.unpack(ARGV[8]) }
local key = key_scope ~= '' and scope_of(key_scope)
-- Which limits in shadow refused it, by dimension: the workspace's, and the key's.
local refused = {}
local key_refused = key and {} or refused
local is_refused = false
