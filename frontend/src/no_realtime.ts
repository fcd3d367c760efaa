// Stands in for @supabase/realtime-js in the bundle (vite.config.ts): supabase-js constructs a client at its start.
export class RealtimeClient {
  setAuth() {
    return Promise.resolve();
  }
}
