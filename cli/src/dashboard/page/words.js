// Numbers, names and states as people read them.

export const OUTSIDE = 'outside the mesh';

export const keyOf = (end) => (end.name === '' ? OUTSIDE : end.namespace === '' ? end.name : `${end.namespace}/${end.name}`);

export const health = (share) => (share === null || share === undefined || share >= 99 ? 'good' : share >= 90 ? 'poor' : 'bad');

/// Each state has a symbol beside its color.
export const SYMBOLS = { good: '✓', poor: '!', bad: '✕', denied: '⊘', inner: '', idle: '' };

export const words = {
  rate: (rate) => (rate >= 1e6 ? `${(rate / 1e6).toFixed(1)} M/s` : rate >= 1e4 ? `${(rate / 1e3).toFixed(1)} k/s` : `${rate.toFixed(rate >= 100 ? 0 : rate >= 0.05 || rate === 0 ? 1 : 2)}/s`),
  percent: (share) => (share === null || share === undefined ? '-' : share > 99.999 ? '100 %' : `${(Math.floor(share * 10) / 10).toFixed(1)} %`),
  millis: (ms) => (ms === null || ms === undefined ? '-' : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(0)} s`),
  count: (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`,
};

/// A time in its largest unit.
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86400)} d`;
}

export const moment = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ')} UTC`;

/// Age, time left and health of a certificate. Sidecars renew theirs long before its last quarter.
export function lifetime({ notBefore, notAfter }, now = Date.now() / 1000) {
  const left = notAfter - now;
  const share = left / Math.max(1, notAfter - notBefore);
  return { age: duration(now - notBefore), left: left > 0 ? duration(left) : 'expired', health: left <= 0 ? 'bad' : share < 0.2 ? 'poor' : 'good', share };
}

export const mtls = { yes: 'mTLS', no: 'plain text', unknown: '' };
