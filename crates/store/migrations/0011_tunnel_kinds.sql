-- What a tunnel is listed as (contract D, 6.1 and 6.3).
ALTER TABLE tunnels ADD COLUMN kind TEXT NOT NULL DEFAULT 'cfd_tunnel';
