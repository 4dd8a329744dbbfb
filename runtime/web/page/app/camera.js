// The camera mode: live translation of a camera, with a divider between before and after.

import { runLocal } from './camera-local.js';
import { runRemote } from './camera-remote.js';
import { hasFacing, listCameras, openCamera } from './camera-source.js';
import { createCompare } from './compare.js';
import { button, download, el, fileName, icon } from './dom.js';
import { notify } from './notices.js';

/** @typedef {import('./session.js').Session} Session */

/**
 * Puts the mode on the stage.
 * @param {HTMLElement} root
 * @param {Session} session
 */
export function mount(root, session) {
  const mode = new CameraMode(root, session);
  return { unmount: () => mode.unmount(), key: (/** @type {string} */ key) => mode.key(key) };
}

class CameraMode {
  /**
   * @param {HTMLElement} root
   * @param {Session} session
   */
  constructor(root, session) {
    this.root = root;
    this.session = session;
    this.compare = createCompare();
    this.mirrored = true;
    /** @type {'user' | 'environment'} */
    this.facing = 'user';
    /** @type {'off' | 'starting' | 'on'} */
    this.state = 'off';
    this.video = el('video', { muted: true, playsInline: true, 'aria-hidden': 'true' });
    /** @type {MediaStream | null} */
    this.stream = null;
    /** @type {import('./camera-local.js').Run | null} */
    this.run = null;
    this.problem = '';
    this.order = 0;
    this.buildToolbar();
    this.view = el('div', { class: 'view' });
    root.append(this.view, this.toolbar);
    this.onChange = () => this.compare.label(session.source, session.target);
    this.onDevices = () => this.listDevices();
    session.addEventListener('change', this.onChange);
    navigator.mediaDevices?.addEventListener?.('devicechange', this.onDevices);
    document.addEventListener('fullscreenchange', this.onFullScreen);
    this.onChange();
    this.listDevices();
    this.show();
  }

  onFullScreen = () => this.fullScreenButton.setAttribute('aria-pressed', String(this.isFull));

  get isFull() {
    return document.fullscreenElement === this.root || this.root.classList.contains('filled');
  }

  unmount() {
    this.stop();
    this.session.removeEventListener('change', this.onChange);
    navigator.mediaDevices?.removeEventListener?.('devicechange', this.onDevices);
    document.removeEventListener('fullscreenchange', this.onFullScreen);
    if (this.isFull) this.toggleFullScreen();
    this.root.replaceChildren();
  }

  /** @param {string} key */
  key(key) {
    const action = {
      ' ': this.toggle,
      m: this.toggleMirror,
      b: this.toggleSplit,
      c: this.snapshot,
      f: this.toggleFullScreen,
    }[key];
    action?.call(this);
    return Boolean(action);
  }

  buildToolbar() {
    this.startButton = button({
      icon: 'play',
      text: 'Start',
      id: 'camera-start',
      class: 'primary',
      onclick: () => this.toggle(),
    });
    this.deviceList = el('select', {
      id: 'camera-device',
      'aria-label': 'Camera',
      hidden: true,
      on: { change: () => this.restart() },
    });
    this.flipButton = button({
      icon: 'flip',
      label: 'Front or back camera',
      id: 'camera-flip',
      onclick: () => this.flip(),
    });
    this.mirrorButton = button({
      icon: 'mirror',
      label: 'Mirror',
      id: 'camera-mirror',
      pressed: true,
      onclick: () => this.toggleMirror(),
    });
    this.splitButton = button({
      icon: 'compare',
      label: 'Before and after',
      id: 'camera-split',
      pressed: true,
      onclick: () => this.toggleSplit(),
    });
    this.snapshotButton = button({
      icon: 'snapshot',
      label: 'Snapshot',
      id: 'camera-snapshot',
      onclick: () => this.snapshot(),
    });
    this.fullScreenButton = button({
      icon: 'fullscreen',
      label: 'Full screen',
      id: 'camera-fullscreen',
      pressed: false,
      onclick: () => this.toggleFullScreen(),
    });
    this.toolbar = el(
      'div',
      { class: 'toolbar', role: 'group', 'aria-label': 'Camera' },
      this.startButton,
      this.deviceList,
      this.flipButton,
      this.mirrorButton,
      this.splitButton,
      this.snapshotButton,
      this.fullScreenButton,
    );
  }

  toggle() {
    return this.state === 'off' ? this.start() : this.stop();
  }

  async start() {
    const order = ++this.order;
    this.problem = '';
    this.setState('starting');
    try {
      const stream = await openCamera({
        device: this.deviceList.value || undefined,
        facing: hasFacing() ? this.facing : undefined,
        large: this.wantsLarge(),
      });
      if (order !== this.order) return stopTracks(stream);
      await this.play(stream, order);
    } catch (error) {
      if (order === this.order) this.fail(/** @type {Error} */ (error));
    }
  }

  wantsLarge() {
    const { size } = this.session;
    return size !== 'auto' && (size === 0 || size > 720);
  }

  /**
   * @param {MediaStream} stream
   * @param {number} order
   */
  async play(stream, order) {
    const [track] = stream.getVideoTracks();
    this.stream = stream;
    track.addEventListener('ended', () => {
      if (this.stream === stream) this.fail(new Error('The camera has been disconnected.'));
    });
    track.addEventListener('mute', () => {
      if (this.stream === stream && !document.hidden) notify('The camera sends no picture at the moment.');
    });
    this.video.srcObject = stream;
    await this.video.play();
    if (order !== this.order) return;
    const failed = (/** @type {Error} */ error) => this.fail(error);
    const run = this.session.remote
      ? await runRemote(this.video, track, this.session, this, failed)
      : runLocal(this.video, this.session, this, failed);
    if (order !== this.order) return run.stop();
    this.run = run;
    this.setState('on');
    this.listDevices();
  }

  stop() {
    this.order++;
    this.run?.stop();
    this.run = null;
    if (this.stream) stopTracks(this.stream);
    this.stream = null;
    this.video.srcObject = null;
    delete this.compare.root.dataset.frames;
    this.setState('off');
  }

  /** @param {Error} error */
  fail(error) {
    this.stop();
    this.problem = error.message;
    this.show();
  }

  async restart() {
    if (this.state === 'off') return;
    this.stop();
    await this.start();
  }

  /** @param {'off' | 'starting' | 'on'} state */
  setState(state) {
    this.state = state;
    this.show();
  }

  /** Shows the picture, or what is to be done to get one. */
  show() {
    const on = this.state === 'on';
    this.startButton.replaceChildren(
      icon(this.state === 'off' ? 'play' : 'stop'),
      el('span', {}, { off: 'Start', starting: 'Cancel', on: 'Stop' }[this.state]),
    );
    this.startButton.classList.toggle('primary', this.state === 'off');
    this.snapshotButton.disabled = !on;
    this.view.replaceChildren(on ? this.compare.root : this.placeholder());
    this.root.dataset.state = this.state;
  }

  placeholder() {
    if (this.state === 'starting')
      return el(
        'div',
        { class: 'empty' },
        el('span', { class: 'spinner' }),
        el('p', { class: 'empty-title', role: 'status' }, 'Starting the camera…'),
      );
    if (this.problem)
      return el(
        'div',
        { class: 'empty', role: 'alert' },
        icon('warning'),
        el('p', { class: 'empty-title' }, 'No picture from the camera'),
        el('p', { class: 'text', id: 'camera-problem' }, this.problem),
      );
    const where = this.session.remote ? 'by the server that this page came from' : 'on this device';
    return el(
      'div',
      { class: 'empty' },
      icon('camera'),
      el('p', { class: 'empty-title' }, 'Translate your camera, live'),
      el('p', { class: 'text' }, `Press Start and allow the camera. Its frames are translated ${where}.`),
    );
  }

  async listDevices() {
    const cameras = await listCameras();
    const current = this.stream?.getVideoTracks()[0]?.getSettings().deviceId ?? this.deviceList.value;
    this.deviceList.replaceChildren(
      ...cameras.map((camera, at) => el('option', { value: camera.deviceId }, camera.label || `Camera ${at + 1}`)),
    );
    if (cameras.some((camera) => camera.deviceId === current)) this.deviceList.value = current;
    this.deviceList.hidden = cameras.length < 2 || hasFacing();
    this.flipButton.hidden = !hasFacing();
  }

  /** The other camera of a phone; what looks at the user is mirrored. */
  flip() {
    this.facing = this.facing === 'user' ? 'environment' : 'user';
    this.deviceList.value = '';
    this.mirror(this.facing === 'user');
    return this.restart();
  }

  toggleMirror() {
    this.mirror(!this.mirrored);
  }

  /** @param {boolean} on */
  mirror(on) {
    this.mirrored = on;
    this.mirrorButton.setAttribute('aria-pressed', String(on));
  }

  toggleSplit() {
    this.compare.split = !this.compare.split;
    this.splitButton.setAttribute('aria-pressed', String(this.compare.split));
  }

  snapshot() {
    if (this.state !== 'on' || !this.compare.root.dataset.frames) return;
    const { site, target } = this.session;
    const time = new Date().toISOString().slice(0, 19).replace(/:/g, '-');
    this.compare.after.toBlob((blob) => {
      if (blob) download(blob, `${fileName(site.name)}-${fileName(target)}-${time}.png`);
    }, 'image/png');
  }

  /** Phones that cannot show an element in full screen fill the page with it. */
  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (this.root.requestFullscreen)
      this.root.requestFullscreen().catch(() => notify('This browser does not allow full screen here.'));
    else {
      this.root.classList.toggle('filled');
      this.onFullScreen();
    }
  }
}

/** @param {MediaStream} stream */
function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}
